#include "tests/scheduler/simulation/fair_watch.h"

#include <algorithm>
#include <utility>

#include "scheduler/active_request.h"
#include "tests/scheduler/simulation/violation.h"

namespace tuppence::simulation {
namespace {

int64_t MachineNs(const SequenceGroup& group) {
  return static_cast<const ActiveRequest&>(group).charges.machine_ns;
}

// Nobody could run, and blocks were taken from whoever had any for one prompt under way.
bool IsRescue(const Scheduler& scheduler) {
  for (const SequenceGroup* group : scheduler.running_groups()) {
    for (const Sequence& sequence : group->sequences) {
      if (sequence.ready_to_decode()) return false;
    }
  }
  return true;
}

}  // namespace

FairWatch::FairWatch(const EngineOptions& options)
    : class_wait_max_ns_(options.class_wait_max_ns),
      request_wait_max_ns_(options.request_wait_max_ns),
      block_tokens_(options.block_tokens) {}

void FairWatch::StepPlanned(const Scheduler& scheduler, const BlockPool& pool, int64_t now_ns) {
  planned_ = true;
  NoteOverdue(scheduler.queue(), now_ns);
  NoteStarts(scheduler, now_ns);
  // Batch work that has just made room does not come back in the same step.
  if (!lost_) {
    CheckClasses();
    CheckLanes(scheduler, now_ns);
  }
  CheckGap(scheduler.queue());
  CheckLostPlaces(scheduler);
  // The plan of one step may have been made ahead, before the batch work held anything.
  kept_out_steps_ = BatchKeepsFirstOut(scheduler, pool, now_ns) ? kept_out_steps_ + 1 : 0;
  Require(kept_out_steps_ < 2, "batch work does not give way to the first in line");
  NoteCharges(scheduler);
}

void FairWatch::StepEnded(const Scheduler& scheduler, int64_t now_ns) {
  CheckCharges(scheduler);
  charges_.clear();
  // Who starts in a step that comes to nothing has started all the same.
  if (!std::exchange(planned_, false)) NoteStarts(scheduler, now_ns);
  running_.clear();
  for (const SequenceGroup* group : scheduler.running_groups()) {
    running_[group->arrival] = {.priority_class = group->priority_class,
                                .preemptions = group->preemptions,
                                .recompute_tokens = group->recompute_tokens(),
                                .may_lose = !group->pinned && group->holds_blocks(),
                                .stalled = group->all_stalled(),
                                .keeps_place = group->keeps_place};
  }
  NoteWaits(scheduler.queue(), now_ns);
}

void FairWatch::NoteOverdue(const FairQueue& queue, int64_t now_ns) {
  std::array<bool, kPriorityClasses> waited;
  for (int c = 0; c < kPriorityClasses; ++c) waited[c] = classes_[c].waits;
  NoteWaits(queue, now_ns);
  for (int c = 0; c < kPriorityClasses; ++c) {
    Class& its_class = classes_[c];
    its_class.overdue = waited[c] && class_wait_max_ns_[c] > 0 &&
                        now_ns - its_class.waits_since_ns >= class_wait_max_ns_[c];
    its_class.may_start = false;
    its_class.started = 0;
  }
  for (const FairLane* lane : queue.lanes_waiting()) {
    if (queue.Next(*lane, now_ns) != nullptr) ClassOf(lane->priority_class).may_start = true;
  }
}

// A class whose last waiting request went, and in which somebody lost their place since, waits
// anew.
void FairWatch::NoteWaits(const FairQueue& queue, int64_t now_ns) {
  std::array<bool, kPriorityClasses> waited = {};  // somebody who did not run a moment ago
  for (const FairLane* lane : queue.lanes_waiting()) {
    for (const auto& [arrival, group] : lane->waiting) {
      waits_since_ns_.emplace(arrival, now_ns);
      waited[static_cast<int>(lane->priority_class)] |= running_.count(arrival) == 0;
    }
  }
  for (int c = 0; c < kPriorityClasses; ++c) {
    const bool waits = queue.waiting(static_cast<PriorityClass>(c)) > 0;
    if (waits && !(classes_[c].waits && waited[c])) classes_[c].waits_since_ns = now_ns;
    classes_[c].waits = waits;
  }
}

void FairWatch::NoteStarts(const Scheduler& scheduler, int64_t now_ns) {
  lost_ = false;
  for (const SequenceGroup* group : scheduler.running_groups()) {
    const auto before = running_.find(group->arrival);
    if (before != running_.end()) {
      if (before->second.preemptions == group->preemptions) continue;
      lost_ = true;  // and it came back
    }
    Class& its_class = ClassOf(group->priority_class);
    ++its_class.started;
    its_class.waits_since_ns = now_ns;
    its_class.started_clock_ns = std::max(its_class.started_clock_ns, group->lane->clock_ns);
  }
  for (const FairLane* lane : scheduler.queue().lanes_waiting()) {
    for (const auto& [arrival, group] : lane->waiting) lost_ = lost_ || running_.count(arrival) > 0;
  }
}

bool FairWatch::somebody_started() const {
  return std::any_of(classes_.begin(), classes_.end(),
                     [](const Class& its_class) { return its_class.started > 0; });
}

void FairWatch::CheckClasses() const {
  bool higher_waits = false;
  for (const Class& its_class : classes_) {
    if (its_class.started > 0 && higher_waits) {
      Require(its_class.overdue, "somebody started although a higher class waits");
      Require(its_class.started == 1, "an overdue class started more than one");
    }
    higher_waits = higher_waits || its_class.may_start;
  }
  for (const Class& passed_over : classes_) {
    if (!passed_over.overdue || !passed_over.may_start || passed_over.started > 0) continue;
    for (const Class& its_class : classes_) {
      Require(its_class.started == 0 || its_class.overdue,
              "somebody started past a class that had waited beyond its limit");
    }
  }
}

bool FairWatch::Aged(int64_t arrival, int64_t now_ns) const {
  const auto since = waits_since_ns_.find(arrival);
  const int64_t since_ns = since == waits_since_ns_.end() ? now_ns : since->second;
  return now_ns - since_ns >= request_wait_max_ns_;
}

// Who starts for the first time, against whoever of its lane waits on.
void FairWatch::CheckLanes(const Scheduler& scheduler, int64_t now_ns) const {
  for (const SequenceGroup* group : scheduler.running_groups()) {
    if (running_.count(group->arrival) > 0 || group->preemptions > 0) continue;
    for (const auto& [arrival, other] : group->lane->waiting) {
      if (other->preemptions > 0) {
        Require(other->all_stalled(), "a newcomer started before one that had lost its place");
      } else if (Aged(arrival, now_ns)) {
        Require(group->arrival < arrival, "somebody started past one that had waited too long");
      } else if (!Aged(group->arrival, now_ns)) {
        const std::pair own = {group->prompt_tokens(), group->arrival};
        Require(own < std::pair(other->prompt_tokens(), arrival),
                "somebody started before one with a shorter prompt");
      }
    }
  }
}

void FairWatch::CheckGap(const FairQueue& queue) {
  std::set<LaneKey> unable;
  for (const FairLane* lane : queue.lanes_waiting()) {
    const LaneKey key = {lane->tenant, lane->priority_class};
    if (queue.Next(*lane, /*now_ns=*/0) == nullptr || was_unable_.count(key) > 0) {
      unable.insert(key);
      continue;
    }
    Require(
        lane->clock_ns >= ClassOf(lane->priority_class).started_clock_ns,
        "somebody waits who is behind the clock of one that started: the gap is beyond its bound");
  }
  was_unable_ = std::move(unable);
}

void FairWatch::CheckLostPlaces(const Scheduler& scheduler) const {
  if (!lost_ || IsRescue(scheduler)) return;
  std::map<int64_t, const SequenceGroup*> run_on;
  for (const SequenceGroup* group : scheduler.running_groups()) run_on[group->arrival] = group;
  for (const auto& [arrival, lost] : running_) {
    bool waits = false;
    for (const FairLane* lane : scheduler.queue().lanes_waiting()) {
      waits = waits || lane->waiting.count(arrival) > 0;
    }
    // Whose readers are slow may lose theirs to whoever waits, out of turn.
    if (!waits || lost.stalled) continue;
    for (const auto& [other_arrival, other] : running_) {
      const auto here = run_on.find(other_arrival);
      if (here == run_on.end() || here->second->preemptions > other.preemptions) continue;
      if (!other.may_lose || other.keeps_place) continue;
      Require(other.priority_class <= lost.priority_class,
              "somebody lost their place before one of a lower class");
      Require(other.priority_class < lost.priority_class ||
                  other.recompute_tokens >= lost.recompute_tokens,
              "somebody lost their place before one with less to compute again");
    }
  }
}

// Nobody starts, the first in line lacks a place, and those of batch work would be enough for it,
// as would their blocks for all that it may ever need.
bool FairWatch::BatchKeepsFirstOut(const Scheduler& scheduler, const BlockPool& pool,
                                   int64_t now_ns) const {
  const SequenceGroup* first = scheduler.queue().First(now_ns);
  if (first == nullptr || first->priority_class == PriorityClass::kBatch || lost_) return false;
  int32_t places = scheduler.places_free();
  if (places >= first->live_sequences() || somebody_started()) return false;
  int64_t blocks = pool.blocks_free();
  for (const SequenceGroup* group : scheduler.running_groups()) {
    const Running& before = running_.at(group->arrival);
    if (group->priority_class != PriorityClass::kBatch || before.keeps_place || !before.may_lose) {
      continue;
    }
    places += group->live_sequences();
    for (const Sequence& sequence : group->sequences) {
      for (const int32_t block : sequence.blocks.blocks()) {
        blocks += pool.references(block) == 1;
      }
    }
    blocks -= group->live_sequences();  // each may have got its own for a shared one in this step
  }
  const int64_t each = (first->tokens_max() + block_tokens_ - 1) / block_tokens_;
  return places >= first->live_sequences() && blocks >= first->live_sequences() * each;
}

void FairWatch::NoteCharges(const Scheduler& scheduler) {
  for (const SequenceGroup* group : scheduler.running_groups()) {
    LaneCharge& lane = charges_[{group->tenant, group->priority_class}];
    lane.clock_ns = group->lane->clock_ns;
    lane.machine_ns[group->arrival] = MachineNs(*group);
  }
}

// Of lanes whose requests all run on.
void FairWatch::CheckCharges(const Scheduler& scheduler) const {
  std::map<int64_t, const SequenceGroup*> run_on;
  for (const SequenceGroup* group : scheduler.running_groups()) run_on[group->arrival] = group;
  for (const auto& [key, lane] : charges_) {
    int64_t expected_ns = lane.clock_ns;
    int64_t clock_ns = -1;
    for (const auto& [arrival, machine_ns] : lane.machine_ns) {
      const auto here = run_on.find(arrival);
      if (here == run_on.end()) {
        clock_ns = -1;
        break;
      }
      const SequenceGroup& group = *here->second;
      expected_ns += (MachineNs(group) - machine_ns) * kWeightOne / group.weight_milli;
      clock_ns = group.lane->clock_ns;
    }
    Require(clock_ns < 0 || clock_ns == expected_ns,
            "a lane's clock is not what its requests were charged over the weight");
  }
}

}  // namespace tuppence::simulation
