// DecodeLeap: takes an engine over a run of steps in which its sequences do nothing but decode, all
// in one go. Between two steps of such a run nobody comes, starts, ends or loses its place, so that
// there is nothing to plan, no batch to build and nobody to tell; what is left of each step is its
// time, its charges, and a block for those that reach a border. Used by Replica, on a simulated
// device, where planning and telling are most of a step.
//
// The engine is afterwards as if Step had been called so often: the same times, charges, blocks and
// books to the nanosecond (DecodeLeapTest). Two things are left out, as nobody in a simulation asks
// for them: each step's summary in the records, and the step model's error.
#pragma once

#include <cstdint>
#include <vector>

#include "scheduler/engine.h"
#include "scheduler/simulation/roofline_executor.h"
#include "scheduler/simulation/virtual_clock.h"

namespace tuppence {

class DecodeLeap {
 public:
  // All of them outlive it; the device is the engine's and the clock both theirs. Requires: the
  // engine does not refine its costs; it is not started; requests have one choice, want token ids
  // alone, and end by max_tokens alone.
  DecodeLeap(Engine* engine, const RooflineExecutor* device, VirtualClock* clock)
      : engine_(engine), device_(device), clock_(clock) {}

  // Takes as many steps as it can that begin before until_ns. Until then nothing is submitted or
  // cancelled. How many it took; 0 where the next step may be of another kind.
  int64_t Run(int64_t until_ns);

 private:
  struct Runner {
    ActiveRequest* request = nullptr;
    Sequence* sequence = nullptr;
    int32_t steps_to_border = 0;  // of the run, that fit its blocks
    bool counted = false;         // the request has noted how many it holds
  };

  bool NobodyMayStart() const;
  int64_t Gather();
  bool Extend();
  void CountBlocks();
  void Charge(int64_t now_ns);
  void Deliver(int64_t steps);

  Engine* const engine_;
  const RooflineExecutor* const device_;
  VirtualClock* const clock_;

  // Of the run at hand; capacity stays.
  std::vector<Runner> runners_;  // by arrival
  std::vector<StepPlayer> players_;
  StepWork work_;                // of the next step, all together
  int64_t steps_to_border_ = 0;  // of the first that reaches one
  bool all_counted_ = false;
  std::vector<int64_t> step_ends_ns_;
};

}  // namespace tuppence
