// SchedulerPlayer: plays the engine for the tests of the scheduler's policy: no threads, no clock,
// no device; each position computed costs kTokenNs.
#pragma once

#include <memory>
#include <numeric>
#include <vector>

#include "scheduler/scheduler.h"

namespace tuppence {

inline SchedulerOptions SmallSchedulerOptions() {
  return {.block_tokens = 4,
          .sequences_max = 8,
          .step_tokens_max = 16,
          .prefill_tokens_min = 4,
          .itl_target_ns = 0,
          .logit_rows_max = 8,
          .positions_original = 0,
          .rope_policy = RopePolicy::kExact,
          .preemptions_max = 3,
          .class_wait_max_ns = kClassWaitMaxNs,
          .request_wait_max_ns = kRequestWaitMaxNs};
}

constexpr int64_t kTokenNs = 1000;

// Who asks.
struct PlayerTenant {
  int64_t id = 0;
  PriorityClass priority_class = PriorityClass::kStandard;
  int64_t weight_milli = kWeightOne;
};

class SchedulerPlayer {
 public:
  SchedulerPlayer(const SchedulerOptions& options, int32_t blocks)
      : pool_(blocks), scheduler_(options, &pool_) {}

  SequenceGroup* Add(int32_t prompt_tokens, int32_t max_tokens, int32_t choices = 1) {
    return AddFor(PlayerTenant(), prompt_tokens, max_tokens, choices);
  }
  SequenceGroup* AddFor(const PlayerTenant& tenant, int32_t prompt_tokens, int32_t max_tokens,
                        int32_t choices = 1) {
    groups_.push_back(std::make_unique<SequenceGroup>());
    SequenceGroup* group = groups_.back().get();
    group->arrival = static_cast<int64_t>(groups_.size());
    group->tenant = tenant.id;
    group->priority_class = tenant.priority_class;
    group->weight_milli = tenant.weight_milli;
    group->prompt.resize(prompt_tokens);
    std::iota(group->prompt.begin(), group->prompt.end(), 0);
    group->max_tokens = max_tokens;
    scheduler_.Add(group, choices, now_ns_);
    return group;
  }

  const StepPlan& Plan() { return scheduler_.PlanStep(now_ns_); }

  // Draws a token for everyone who draws; whoever has all its tokens ends. The next step is planned
  // meanwhile, as the engine does.
  void Complete(const StepPlan& plan) {
    scheduler_.NoteLaunched();
    if (plans_ahead_) scheduler_.PlanAhead();
    for (const PlanEntry& entry : plan.entries) {
      scheduler_.Charge(entry.group, entry.tokens * kTokenNs);
    }
    for (const PlanEntry& entry : plan.entries) {
      if (!entry.draws) continue;
      for (Sequence& sequence : entry.group->sequences) {
        if (sequence.finished || (!entry.draws_for_all && &sequence != entry.sequence)) continue;
        sequence.TakeToken(7);
        if (sequence.output_tokens() < entry.group->max_tokens) {
          scheduler_.Continue(&sequence, entry.group);
        } else {
          scheduler_.Finish(&sequence, entry.group);
        }
      }
      if (entry.group->live_sequences() == 0) scheduler_.Remove(entry.group, /*tainted=*/false);
    }
  }

  int32_t Step() {
    const StepPlan& plan = Plan();
    const int32_t tokens = plan.tokens;
    Complete(plan);
    return tokens;
  }

  void Advance(int64_t ns) { now_ns_ += ns; }
  void PlanNothingAhead() { plans_ahead_ = false; }
  BlockPool& pool() { return pool_; }
  Scheduler& scheduler() { return scheduler_; }

 private:
  int64_t now_ns_ = 0;
  bool plans_ahead_ = true;
  BlockPool pool_;
  std::vector<std::unique_ptr<SequenceGroup>> groups_;
  Scheduler scheduler_;
};

// Tokens that the plan gives to the group's sequences.
inline int32_t TokensOf(const StepPlan& plan, const SequenceGroup* group) {
  int32_t tokens = 0;
  for (const PlanEntry& entry : plan.entries) {
    if (entry.group == group) tokens += entry.tokens;
  }
  return tokens;
}

}  // namespace tuppence
