// SimulatedDevice: a device whose KV cache holds what each slot was computed from, and whose next
// token is a hash of what it reads back through the block tables (oracle.h). Takes the time the
// step-cost model says, or far longer; fails and yields NaN where the scenario has it so. Looks at
// each batch for what no batch may hold.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "scheduler/engine.h"
#include "scheduler/simulation/virtual_clock.h"
#include "scheduler/step_executor.h"
#include "tests/scheduler/simulation/cache_watch.h"
#include "tests/scheduler/simulation/fair_watch.h"
#include "tests/scheduler/simulation/oracle.h"
#include "tests/scheduler/simulation/step_watch.h"

namespace tuppence::simulation {

int32_t TenantNumber(const std::string& tenant);
std::string TenantName(int32_t tenant);

class SimulatedDevice final : public StepExecutor {
 public:
  // Everything outlives the device. steps_before: of the devices before it.
  SimulatedDevice(const Scenario& scenario, int64_t steps_before, VirtualClock* clock);

  // Whose device it is; before the first step.
  void set_engine(const Engine* engine) { engine_ = engine; }

  void Launch(const BlockWork& blocks, const Batch& batch,
              std::span<const SamplingRow> sampling) override;
  absl::Status Wait(std::span<SampledToken> tokens) override;

  // Blocks that nobody holds and no cache keeps: whoever reads them gets a wrong answer.
  void PoisonFreeBlocks();

  // The engine is through with a step, or found nothing to do.
  void StepEnded();

  const StepWatch& step_watch() const { return step_watch_; }
  int64_t steps() const { return steps_; }
  bool failed() const { return failed_; }
  uint64_t trace() const { return trace_; }
  // Everything drawn for a choice of a call, in order.
  const std::vector<int32_t>& Drawn(uint64_t key, int32_t choice) { return drawn_[{key, choice}]; }

 private:
  // Who holds a block.
  struct Owner {
    int32_t tenant = -1;
    const ActiveRequest* request = nullptr;
    const Sequence* sequence = nullptr;  // of those that share it one
  };

  void NoteOwners();
  std::vector<Chunk> ChunksOf(const Batch& batch) const;
  void CheckBatch(const Batch& batch, std::span<const SamplingRow> sampling) const;
  void CheckNobodyForgotten(std::span<const SamplingRow> sampling) const;
  void DoBlockWork(const BlockWork& blocks);
  void Store(const Batch& batch, int32_t entry, int32_t token);
  uint64_t HashUpTo(const Batch& batch, int32_t entry, int32_t positions) const;
  const Slot& SlotAt(const Batch& batch, int32_t entry, int32_t position) const;
  void TaintBlocks(const Batch& batch, int32_t entry, int32_t positions);
  bool NotFinite(const SamplingRow& row) const;

  const Scenario& scenario_;
  const int32_t block_tokens_;
  VirtualClock* const clock_;
  const Engine* engine_ = nullptr;
  const StepCostModel model_;
  FairWatch fair_watch_;
  StepWatch step_watch_;
  CacheWatch cache_watch_;
  Draw draw_;
  std::map<uint64_t, const CallPlan*> poisoned_;
  std::vector<Slot> slots_;      // [blocks * block_tokens]
  std::vector<Owner> owners_;    // [blocks] in this step
  std::vector<bool> is_poison_;  // [blocks]
  std::vector<SampledToken> results_;
  std::map<std::pair<uint64_t, int32_t>, std::vector<int32_t>> drawn_;
  int64_t step_ns_ = 0;
  int64_t steps_ = 0;
  bool failed_ = false;
  uint64_t trace_ = 0;
};

}  // namespace tuppence::simulation
