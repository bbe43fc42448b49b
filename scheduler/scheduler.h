// Scheduler: decides which sequences run in the next step and how many tokens each may use.
// Called by Engine only. Pure: no threads, no clock, no device. Given the same calls it makes the
// same plans, so every policy question can be settled in scheduler_test.cc.
//
// Running sequences decode in every step; prompts prefill in chunks under what is left of the
// step's budget (scheduler/step_budget), in order of arrival; waiting requests start while places
// and blocks last. When blocks run out, whoever has the least to recompute gives theirs back and
// starts again later, at most preemptions_max times.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "model/rope_table.h"
#include "scheduler/block_pool.h"
#include "scheduler/sequence.h"
#include "scheduler/step_budget.h"
#include "scheduler/step_plan.h"

namespace tuppence {

struct SchedulerOptions {
  int32_t block_tokens = 16;
  int32_t sequences_max = 256;
  int32_t step_tokens_max = 512;
  int32_t prefill_tokens_min = 64;  // prefill's part of a step full of decodes
  int64_t itl_target_ns = 0;        // between two tokens of a stream, modelled; 0: no limit in time
  int32_t logit_rows_max = 256;     // >= sequences_max
  int32_t positions_original = 0;   // LongRoPE's border; 0: none
  RopePolicy rope_policy = RopePolicy::kExact;
  int32_t preemptions_max = 3;
};

class Scheduler {
 public:
  // pool outlives the scheduler.
  Scheduler(const SchedulerOptions& options, BlockPool* pool);

  // Blocks that a request holds at most; it can be served if an empty pool has so many.
  int64_t BlocksMax(int64_t prompt_tokens, int64_t max_tokens, int32_t choices) const;

  // Puts a request at the end of the queue and sets its sequences up. The group outlives its time
  // here. Requires: arrivals rise; BlocksMax and `choices` fit.
  void Add(SequenceGroup* group, int32_t choices);
  // Takes a request out in any state; its blocks go back. With `tainted` they are zeroed before
  // anyone else gets them.
  void Remove(SequenceGroup* group, bool tainted);

  // What work costs, from the next step on.
  void SetCosts(const StepCostCoefficients& coefficients) { budget_.SetCosts(coefficients); }

  // The plan of the next step; valid until the next call. An empty plan: nobody can run.
  const StepPlan& PlanStep();
  // The planned step was computed: its positions lie in the pages now.
  void CompleteStep();

  // After a token was drawn for the sequence and added to its tokens: it goes on, or it has ended.
  void Continue(Sequence* sequence, SequenceGroup* group);
  void Finish(Sequence* sequence, SequenceGroup* group);

  int32_t waiting() const { return static_cast<int32_t>(waiting_.size()); }
  int32_t running() const { return static_cast<int32_t>(running_.size()); }
  int32_t sequences_running() const { return sequences_running_; }
  // Who holds a place, in order of arrival.
  const std::vector<SequenceGroup*>& running_groups() const { return running_; }

 private:
  int32_t BlocksFor(int64_t tokens) const {
    return static_cast<int32_t>((tokens + options_.block_tokens - 1) / options_.block_tokens);
  }

  // PlanStep's parts, in order.
  void MakeRoomForDecodes();
  void PlanDecodes();
  void PlanPrefills();
  void StartWaiting();
  void Rescue();
  void FinishPlan();

  bool TryExtend(Sequence* sequence, const SequenceGroup& group, int32_t tokens);
  bool PlanCatchUp(SequenceGroup* group, Sequence* sequence);
  PlanEntry MakeCatchUp(SequenceGroup* group, Sequence* sequence, int32_t tokens) const;
  void LimitToRows(PlanEntry* entry) const;
  void AddEntry(const PlanEntry& entry);
  bool TryStart(SequenceGroup* group);
  void SetUpSequences(SequenceGroup* group);
  void ChooseLeader(SequenceGroup* group);
  void Fork(SequenceGroup* group);
  SequenceGroup* PickVictim(const SequenceGroup* spared, bool stalled_only) const;
  void Preempt(SequenceGroup* group);
  void DropPreempted();
  void Cross(Sequence* sequence, const SequenceGroup& group);

  int32_t growth_blocks() const;

  const SchedulerOptions options_;
  BlockPool* const pool_;
  // In order of arrival, which is the policy's place for classes and tenants' clocks: a waiting
  // request starts, and a running one prefills, before those behind it.
  std::map<int64_t, SequenceGroup*> waiting_;
  std::vector<SequenceGroup*> running_;
  int32_t sequences_running_ = 0;
  StepBudget budget_;  // of the step being planned
  StepPlan plan_;
};

}  // namespace tuppence
