#include "scheduler/fair_queue.h"

#include <algorithm>

#include "model/check.h"

namespace tuppence {
namespace {

// Tenants that left ahead of the others. Beyond so many they are forgotten, and would come back as
// new ones: names that callers make up do not fill the memory.
constexpr int32_t kRememberedMax = 4096;

}  // namespace

void FairQueue::Enter(SequenceGroup* group, int64_t now_ns) {
  CHECK(group->lane == nullptr);
  CHECK_GT(group->weight_milli, 0);
  std::unique_ptr<FairLane>& lane = lanes_[{group->tenant, group->priority_class}];
  if (lane == nullptr) {
    lane = std::make_unique<FairLane>();
    lane->tenant = group->tenant;
    lane->priority_class = group->priority_class;
  } else if (lane->groups == 0) {
    --remembered_;
  }
  lane->weight_milli = group->weight_milli;
  ++lane->groups;
  group->lane = lane.get();
  Wait(group, now_ns);
}

void FairQueue::Requeue(SequenceGroup* group, int64_t now_ns) { Wait(group, now_ns); }

void FairQueue::Wait(SequenceGroup* group, int64_t now_ns) {
  FairLane& lane = *group->lane;
  Class& its_class = ClassOf(lane.priority_class);
  if (lane.waiting.empty()) {
    lane.clock_ns = std::max(lane.clock_ns, its_class.virtual_ns);
    lane.place = static_cast<int32_t>(lanes_waiting_.size());
    lanes_waiting_.push_back(&lane);
  }
  group->waits_since_ns = now_ns;
  CHECK(lane.waiting.emplace(group->arrival, group).second);
  if (group->preemptions > 0) {
    lane.lost.emplace(group->arrival, group);
  } else {
    lane.shortest.emplace(std::pair(group->prompt_tokens(), group->arrival), group);
    lane.young.Add(group->prompt_tokens(), group->tokens_left());
  }
  lane.waiting_tokens += group->tokens_left();
  waiting_tokens_ += group->tokens_left();
  if (its_class.waiting++ == 0) its_class.waits_since_ns = now_ns;
  ++waiting_;
}

void FairQueue::StopWaiting(SequenceGroup* group) {
  FairLane& lane = *group->lane;
  CHECK_EQ(lane.waiting.erase(group->arrival), size_t{1});
  CHECK_EQ(lane.lost.erase(group->arrival) +
               lane.shortest.erase(std::pair(group->prompt_tokens(), group->arrival)),
           size_t{1});
  if (group->preemptions == 0 && group->arrival >= lane.young_from) {
    lane.young.Remove(group->prompt_tokens(), group->tokens_left());
  }
  lane.waiting_tokens -= group->tokens_left();
  waiting_tokens_ -= group->tokens_left();
  --ClassOf(lane.priority_class).waiting;
  --waiting_;
  if (!lane.waiting.empty()) return;
  FairLane* last = lanes_waiting_.back();
  lanes_waiting_[lane.place] = last;
  last->place = lane.place;
  lanes_waiting_.pop_back();
  lane.place = -1;
}

void FairQueue::Start(SequenceGroup* group, int64_t now_ns) {
  group->keeps_place = Overdue(group->priority_class, now_ns);
  StopWaiting(group);
  Class& its_class = ClassOf(group->priority_class);
  its_class.waits_since_ns = now_ns;
  its_class.virtual_ns = std::max(its_class.virtual_ns, group->lane->clock_ns);
}

void FairQueue::Leave(SequenceGroup* group) {
  FairLane* lane = group->lane;
  if (lane->waiting.count(group->arrival) > 0) StopWaiting(group);
  group->lane = nullptr;
  if (--lane->groups > 0) return;
  if (lane->clock_ns <= ClassOf(lane->priority_class).virtual_ns) {
    Forget(lane);  // it would come back to the same clock
  } else if (++remembered_ > kRememberedMax) {
    ForgetThoseBehind();
  }
}

void FairQueue::Forget(FairLane* lane) { lanes_.erase({lane->tenant, lane->priority_class}); }

// Whoever the others have caught up with; if that is too few, everybody who is not here.
void FairQueue::ForgetThoseBehind() {
  for (const bool everybody : {false, true}) {
    if (remembered_ <= kRememberedMax / 2) return;
    for (auto next = lanes_.begin(); next != lanes_.end();) {
      const auto here = next++;
      const FairLane& lane = *here->second;
      const bool behind = lane.clock_ns <= ClassOf(lane.priority_class).virtual_ns;
      if (lane.groups > 0 || (!behind && !everybody)) continue;
      lanes_.erase(here);
      --remembered_;
    }
  }
}

bool FairQueue::Overdue(PriorityClass priority_class, int64_t now_ns) const {
  const Class& its_class = ClassOf(priority_class);
  const int64_t wait_max_ns = class_wait_max_ns_[static_cast<int>(priority_class)];
  return wait_max_ns > 0 && its_class.waiting > 0 &&
         now_ns - its_class.waits_since_ns >= wait_max_ns;
}

FairOrder FairQueue::OrderOf(const SequenceGroup& group, int64_t now_ns) const {
  const FairLane& lane = *group.lane;
  const bool overdue = !group.running && Overdue(lane.priority_class, now_ns);
  return {.rank = overdue ? -1 : static_cast<int32_t>(lane.priority_class),
          .clock_ns = lane.clock_ns,
          .tokens_left = group.tokens_left(),
          .arrival = group.arrival};
}

// Whoever has not started yet has a reader that takes what it gets.
SequenceGroup* FairQueue::Next(const FairLane& lane, int64_t now_ns) const {
  for (const auto& [arrival, group] : lane.lost) {
    if (!group->all_stalled()) return group;
  }
  if (lane.shortest.empty()) return nullptr;
  const auto is_new = [](const auto& waits) { return waits.second->preemptions == 0; };
  SequenceGroup* oldest = std::find_if(lane.waiting.begin(), lane.waiting.end(), is_new)->second;
  return HasAged(*oldest, now_ns) ? oldest : lane.shortest.begin()->second;
}

// Everybody who waits, but for itself and the young ones whose prompts are longer.
QueueAhead FairQueue::AheadInLane(const SequenceGroup& newcomer, int64_t now_ns) const {
  FairLane& lane = *newcomer.lane;
  CHECK_EQ(lane.waiting.rbegin()->second, &newcomer);
  const int64_t aged = TakeAgedFromYoung(&lane, now_ns);
  const QueueAhead shorter = lane.young.UpTo(newcomer.prompt_tokens());
  const int64_t longer = lane.young.requests() - shorter.requests;
  const int64_t longer_tokens = lane.young.tokens() - shorter.tokens;
  return {.requests = static_cast<int64_t>(lane.waiting.size()) - longer - 1,
          .tokens = lane.waiting_tokens - longer_tokens - newcomer.tokens_left(),
          .looked_at = aged + shorter.looked_at};
}

// Newcomers age in the order of their arrival. Returns how many requests it looked at.
int64_t FairQueue::TakeAgedFromYoung(FairLane* lane, int64_t now_ns) const {
  int64_t looked_at = 0;
  for (auto next = lane->waiting.lower_bound(lane->young_from); next != lane->waiting.end();
       ++next) {
    ++looked_at;
    const auto& [arrival, group] = *next;
    if (group->preemptions == 0) {
      if (!HasAged(*group, now_ns)) break;
      lane->young.Remove(group->prompt_tokens(), group->tokens_left());
    }
    lane->young_from = arrival + 1;
  }
  return looked_at;
}

QueueAhead FairQueue::AheadOf(const SequenceGroup& newcomer, int64_t now_ns) const {
  const FairLane& own = *newcomer.lane;
  QueueAhead ahead = AheadInLane(newcomer, now_ns);
  const int64_t own_requests = ahead.requests + 1;
  const int64_t own_tokens = ahead.tokens + newcomer.tokens_left();
  ahead.looked_at += static_cast<int64_t>(lanes_waiting_.size());
  for (const FairLane* lane : lanes_waiting_) {
    if (lane == &own || lane->priority_class > own.priority_class) continue;
    const bool shares = lane->priority_class == own.priority_class;
    // Divides only where it must: with 4,000 tenants the divisions took half of the time.
    const auto at_most_by_weight = [&](int64_t theirs, int64_t turns) {
      if (!shares || theirs * own.weight_milli <= turns * lane->weight_milli) return theirs;
      return turns * lane->weight_milli / own.weight_milli;
    };
    const int64_t waiting = static_cast<int64_t>(lane->waiting.size());
    ahead.requests += at_most_by_weight(waiting, own_requests);
    ahead.tokens += at_most_by_weight(lane->waiting_tokens, own_tokens);
  }
  return ahead;
}

SequenceGroup* FairQueue::First(int64_t now_ns) const {
  SequenceGroup* first = nullptr;
  FairOrder first_order;
  for (const FairLane* lane : lanes_waiting_) {
    SequenceGroup* group = Next(*lane, now_ns);
    if (group == nullptr) continue;
    const FairOrder order = OrderOf(*group, now_ns);
    if (first != nullptr && first_order < order) continue;
    first = group;
    first_order = order;
  }
  return first;
}

}  // namespace tuppence
