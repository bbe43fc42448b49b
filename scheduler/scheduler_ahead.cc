// The scheduler's plan of a step while the device is still at the one before. It is made from what
// is known already: each position of that step counts as computed, and who draws has one token
// more, whatever it is.
#include "scheduler/scheduler.h"

namespace tuppence {

void Scheduler::PlanAhead() {
  plan_ = plan_ == &plans_[0] ? &plans_[1] : &plans_[0];
  planned_ahead_ = false;
  if (SomebodyMayStart()) return;
  plan_->Clear();
  budget_.Start();
  for (SequenceGroup* group : running_) {
    for (Sequence& sequence : group->sequences) {
      if (!GoesOnAsItIs(*group, sequence)) return;
      if (!sequence.ready_to_decode()) continue;
      const int32_t missing = BlocksFor(sequence.length()) - sequence.blocks.size();
      if (missing > 0 && !pool_->TryTake(missing, group->tenant, &sequence.blocks)) return;
    }
  }
  PlanDecodes();
  PlanPrompts(/*classes=*/0);
  planned_ahead_ = !plan_->empty();
}

// There is a place that somebody waits for, free or batch work's.
bool Scheduler::SomebodyMayStart() const {
  if (queue_.waiting() == 0) return false;
  return places_free() > 0 || PickVictim(/*spared=*/nullptr, Among::kBatch) != nullptr;
}

// Whatever it draws, unless that ends it, it needs nothing in the next step but its next blocks.
bool Scheduler::GoesOnAsItIs(const SequenceGroup& group, const Sequence& sequence) const {
  if (sequence.finished) return true;
  const bool ends = sequence.drawing && sequence.output_tokens() == group.max_tokens;
  return !ends && !Crosses(sequence) && !SharesItsWriteBlock(sequence);
}

}  // namespace tuppence
