// The scheduler's dealings with a pool that is too small: who gives their place back, and for whom.
#include <algorithm>
#include <limits>

#include "model/check.h"
#include "scheduler/scheduler.h"

namespace tuppence {
namespace {

bool GivesWay(const SequenceGroup& group) {
  return group.priority_class == PriorityClass::kBatch && !group.keeps_place;
}

}  // namespace

// The first in line takes the places and blocks of batch work, if that is enough for it to start.
// True when somebody lost theirs.
bool Scheduler::MakeBatchGiveWay() {
  if (queue_.waiting() == queue_.waiting(PriorityClass::kBatch)) return false;
  if (PickVictim(/*spared=*/nullptr, Among::kBatch) == nullptr) return false;
  const SequenceGroup* first = queue_.First(now_ns_);
  if (first == nullptr || first->priority_class == PriorityClass::kBatch) return false;
  if (CanStart(*first) || !BatchHoldsEnoughFor(*first)) return false;
  do {
    Preempt(PickVictim(/*spared=*/nullptr, Among::kBatch));
    DropPreempted();
  } while (!CanStart(*first) && BatchHoldsEnoughFor(*first));
  return true;
}

bool Scheduler::BatchHoldsEnoughFor(const SequenceGroup& group) {
  int64_t blocks = pool_->blocks_free();
  int32_t places = options_.sequences_max - sequences_running_;
  bool someone = false;
  for (const SequenceGroup* victim : running_) {
    if (!GivesWay(*victim) || victim->pinned || !victim->holds_blocks()) continue;
    someone = true;
    places += victim->live_sequences();
    // Blocks that choices share come back once.
    for (const Sequence& sequence : victim->sequences) {
      for (const int32_t block : sequence.blocks.blocks()) {
        blocks += pool_->references(block) == 1;
      }
    }
  }
  return someone && places >= group.live_sequences() && blocks >= BlocksToStart(group);
}

// Every decoding sequence gets the block its next token needs, the first to arrive first.
void Scheduler::MakeRoomForDecodes() {
  for (SequenceGroup* group : running_) {
    for (Sequence& sequence : group->sequences) {
      if (!group->running) break;  // a victim of somebody before it, or of itself
      if (!sequence.ready_to_decode()) continue;
      while (group->running && !TryExtend(&sequence, *group, sequence.length())) {
        SequenceGroup* victim = PickVictim(/*spared=*/nullptr, Among::kAll);
        CHECK(victim != nullptr);  // itself at least: a pinned group has all it needs
        Preempt(victim);
      }
    }
  }
  DropPreempted();
}

// Nobody can run although somebody wants to: the blocks are held by half-done prompts or by choices
// whose readers are slow. The first in line takes them from the others; somebody who waits may take
// only what slow readers hold.
void Scheduler::Rescue() {
  if (RescuePrompt()) return;
  while (plan_->empty() && queue_.First(now_ns_) != nullptr) {
    SequenceGroup* victim = PickVictim(/*spared=*/nullptr, Among::kStalled);
    if (victim == nullptr) return;
    Preempt(victim);
    DropPreempted();
    PlanPrompts(kPriorityClasses);
  }
}

// For the first prompt under way by class and arrival. False when there is none.
bool Scheduler::RescuePrompt() {
  SequenceGroup* first = nullptr;
  Sequence* its_sequence = nullptr;
  for (SequenceGroup* group : running_) {
    if (first != nullptr && group->priority_class >= first->priority_class) continue;
    for (Sequence& sequence : group->sequences) {
      if (!group->MustCatchUp(sequence)) continue;
      first = group;
      its_sequence = &sequence;
      break;
    }
  }
  if (first == nullptr) return false;
  constexpr int32_t kUnlimited = std::numeric_limits<int32_t>::max();
  while (!PlanCatchUp(first, its_sequence, kUnlimited)) {
    SequenceGroup* victim = PickVictim(first, Among::kAll);
    if (victim == nullptr) break;
    Preempt(victim);
  }
  DropPreempted();
  return true;
}

// The lowest class; in it the least to recompute; of equals the last to arrive. Null when there is
// nobody.
SequenceGroup* Scheduler::PickVictim(const SequenceGroup* spared, Among among) const {
  SequenceGroup* victim = nullptr;
  int64_t least = 0;
  for (SequenceGroup* group : running_) {
    if (!group->running || group->pinned || group == spared || !group->holds_blocks()) continue;
    if (among == Among::kStalled && !group->all_stalled()) continue;
    if (among == Among::kBatch && !GivesWay(*group)) continue;
    const int64_t tokens = group->recompute_tokens();
    if (victim != nullptr && group->priority_class < victim->priority_class) continue;
    const bool lower = victim != nullptr && group->priority_class > victim->priority_class;
    if (victim != nullptr && !lower && tokens > least) continue;
    victim = group;
    least = tokens;
  }
  return victim;
}

// Back to the queue, at its old place in its lane. It stays in running_ until DropPreempted.
void Scheduler::Preempt(SequenceGroup* group) {
  for (Sequence& sequence : group->sequences) {
    if (sequence.finished) continue;
    sequence.recompute_end = std::max(sequence.recompute_end, sequence.computed);
    sequence.computed = 0;
    sequence.follows = false;
    sequence.copy_from = sequence.copy_to = -1;
    sequence.blocks.Clear();
  }
  sequences_running_ -= group->live_sequences();
  group->running = false;
  group->leader = -1;
  ++group->preemptions;
  group->pinned = group->preemptions >= options_.preemptions_max;
  queue_.Requeue(group, now_ns_);
  ++plan_->preemptions;
}

void Scheduler::DropPreempted() {
  std::erase_if(running_, [](const SequenceGroup* group) { return !group->running; });
}

}  // namespace tuppence
