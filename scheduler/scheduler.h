// Scheduler: decides which sequences run in the next step and how many tokens each may use.
// Called by Engine only. Pure: no threads, no device, and time comes in as an argument. Given the
// same calls it makes the same plans, so every policy question can be settled in scheduler_test.cc.
//
// Running sequences decode in every step. What is left of the step's budget (step_budget) goes to
// prompts, those under way and those that wait alike: by class, then by the tenant's clock
// (fair_queue), then the shortest first; whoever cannot start holds back those behind it, so that a
// large request, once its turn has come, is not overtaken. The prompt that has been under way
// longest gets a block in every step, whoever comes before it: what has started goes on. Where that
// block leaves the first in line nothing, of time or of logit rows, the two take turns.
//
// So a request of the highest waiting class whose tenant is not ahead starts within two steps while
// places and blocks last, however long the prompts under way; and a prompt of n blocks under way is
// read in at most 2n steps from when it is the oldest.
//
// When blocks run out, whoever has the least to recompute in the lowest class gives theirs back and
// starts again later, at most preemptions_max times. Batch gives way to whoever waits above it.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "model/rope_table.h"
#include "scheduler/block_pool.h"
#include "scheduler/fair_queue.h"
#include "scheduler/prefix_cache.h"
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
  ClassWaits class_wait_max_ns = kClassWaitMaxNs;
  int64_t request_wait_max_ns = kRequestWaitMaxNs;
};

// Of all requests that started and could have used the cache.
struct PrefixCounts {
  int64_t prompt_tokens = 0;
  int64_t hit_tokens = 0;  // of them
};

class Scheduler {
 public:
  // pool outlives the scheduler.
  Scheduler(const SchedulerOptions& options, BlockPool* pool);

  // Blocks that a request holds at most; it can be served if an empty pool has so many.
  int64_t BlocksMax(int64_t prompt_tokens, int64_t max_tokens, int32_t choices) const;

  // The factors that such a prompt is computed with. Any thread.
  RopeRegime RegimeOf(int64_t prompt_tokens, int64_t max_tokens) const;

  // Positions of a waiting request's prompt that the prefix cache has right now.
  int32_t CachedTokens(const SequenceGroup& group) {
    FindHits(group);
    return static_cast<int32_t>(hits_.size()) * options_.block_tokens;
  }

  // Puts a request into the queue and sets its sequences up. The group outlives its time here.
  // Requires: arrivals rise; BlocksMax and `choices` fit.
  void Add(SequenceGroup* group, int32_t choices, int64_t now_ns);
  // Takes a request out in any state; its blocks go back. With `tainted` they are zeroed before
  // anyone else gets them.
  void Remove(SequenceGroup* group, bool tainted);

  // What work costs, from the next step on.
  void SetCosts(const StepCostCoefficients& coefficients) { budget_.SetCosts(coefficients); }
  // What the request was charged for the step: its tenant's turn comes the later.
  void Charge(SequenceGroup* group, int64_t machine_ns) {
    FairQueue::Charge(group->lane, machine_ns);
  }

  // The plan of the next step, made ahead or now; valid until the next call. An empty plan: nobody
  // can run.
  const StepPlan& PlanStep(int64_t now_ns);
  // The planned step is with the device: its positions count as computed, and who draws has one
  // token more.
  void NoteLaunched();
  // Plans the next step while the device is at this one, as it will be if nothing changes until
  // then: nobody comes, ends or stalls, and nobody waits who might start. Where it does, or where
  // blocks would have to be taken from somebody, PlanStep plans anew: what was made ahead are
  // blocks that their sequences need in any case.
  void PlanAhead();
  bool planned_ahead() const { return planned_ahead_; }

  // The sequence's prompt was read and gave numbers: from now on others of its tenant may share it.
  void KeepPrompt(const SequenceGroup& group, const Sequence& sequence);
  // After a token was drawn for the sequence and added to its tokens: it goes on, or it has ended.
  void Continue(Sequence* sequence, SequenceGroup* group);
  void Finish(Sequence* sequence, SequenceGroup* group);
  // Its reader has no room, or has again.
  void SetStalled(Sequence* sequence, bool stalled);

  int32_t places_free() const { return options_.sequences_max - sequences_running_; }

  int32_t waiting() const { return queue_.waiting(); }
  int32_t running() const { return static_cast<int32_t>(running_.size()); }
  int32_t sequences_running() const { return sequences_running_; }
  // Who holds a place, in order of arrival.
  const std::vector<SequenceGroup*>& running_groups() const { return running_; }
  const FairQueue& queue() const { return queue_; }
  const PrefixCounts& prefix_counts() const { return prefix_counts_; }

 private:
  // Somebody who wants to go on with a prompt, or to start.
  struct Ready {
    FairOrder order;
    SequenceGroup* group = nullptr;
  };

  int32_t BlocksFor(int64_t tokens) const {
    return static_cast<int32_t>((tokens + options_.block_tokens - 1) / options_.block_tokens);
  }

  int32_t WriteBlock(const Sequence& sequence) const {
    return sequence.computed / options_.block_tokens;
  }

  // PlanStep's parts, in order.
  void Plan();
  bool MakeBatchGiveWay();
  void MakeRoomForDecodes();
  void PlanDecodes();
  void PlanPrompts(int32_t classes);
  void Rescue();
  void FinishPlan();

  bool SomebodyMayStart() const;
  bool GoesOnAsItIs(const SequenceGroup& group, const Sequence& sequence) const;
  bool SharesItsWriteBlock(const Sequence& sequence) const;
  bool Crosses(const Sequence& sequence) const;

  void GatherReady(int32_t classes);
  void PushReady(SequenceGroup* group);
  int32_t PlanOldest();
  void TakeBack(int32_t entry);
  void PlanCatchUps(SequenceGroup* group);

  bool TryExtend(Sequence* sequence, const SequenceGroup& group, int32_t tokens);
  bool PlanCatchUp(SequenceGroup* group, Sequence* sequence, int32_t tokens_max);
  PlanEntry MakeCatchUp(SequenceGroup* group, Sequence* sequence, int32_t tokens) const;
  void LimitToRows(PlanEntry* entry) const;
  void AddEntry(const PlanEntry& entry);
  void FindHits(const SequenceGroup& group);
  void AdoptHits(SequenceGroup* group);
  int64_t BlocksToStart(const SequenceGroup& group);
  bool CanStart(const SequenceGroup& group);
  bool TryStart(SequenceGroup* group);
  void SetUpSequences(SequenceGroup* group);
  void ChooseLeader(SequenceGroup* group);
  void Fork(SequenceGroup* group);
  void Cross(Sequence* sequence, const SequenceGroup& group);
  int32_t growth_blocks() const;

  // scheduler_preemption.cc
  enum class Among { kAll, kStalled, kBatch };
  SequenceGroup* PickVictim(const SequenceGroup* spared, Among among) const;
  void Preempt(SequenceGroup* group);
  void DropPreempted();
  bool BatchHoldsEnoughFor(const SequenceGroup& group);
  bool RescuePrompt();

  const SchedulerOptions options_;
  BlockPool* const pool_;
  FairQueue queue_;
  PrefixCache cache_;
  PrefixCounts prefix_counts_;
  std::vector<SequenceGroup*> running_;  // by arrival
  int32_t sequences_running_ = 0;
  int64_t last_arrival_ = -1;

  // Of the step being planned.
  int64_t now_ns_ = 0;
  StepBudget budget_;
  std::vector<Ready> ready_;   // a heap, the first in line on top
  std::vector<int32_t> hits_;  // blocks for who is about to start
  // The plan being made, and the one that the device is at.
  std::array<StepPlan, 2> plans_;
  StepPlan* plan_ = &plans_[0];
  bool planned_ahead_ = false;   // plan_ is the next step's
  bool oldest_had_all_ = false;  // of what the step before this one had for prompts
};

}  // namespace tuppence
