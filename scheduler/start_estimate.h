// StartEstimate: when a request that comes now would have its first token, so that one which cannot
// make it before its deadline is refused at once rather than queued to die. Used by the engine.
// Thread: engine only.
//
// Two things stand before it, and the longer one counts: the arithmetic of the prompts ahead, by
// the step-cost model, and places, which come free as often as requests ended lately. Then comes
// its own prompt. What is not known counts as nothing, and so does what prompts share a step with:
// who is refused would in all likelihood have been late.
#pragma once

#include <cstdint>

#include "scheduler/fair_queue.h"
#include "scheduler/step_cost_model.h"

namespace tuppence {

class StartEstimate {
 public:
  // A request that held a place ended. Time in which nothing ran does not count: see Pause.
  void AddEnd(int64_t now_ns);
  // Nobody runs.
  void Pause() { last_end_ns_ = -1; }

  // places_free: may be negative, if the newcomer has many choices.
  int64_t FirstTokenNs(const QueueAhead& ahead, int64_t prompt_tokens, int64_t places_free,
                       const StepCostCoefficients& costs) const;

 private:
  static constexpr int64_t kRemembered = 16;  // ends, about

  int64_t last_end_ns_ = -1;
  int64_t end_interval_ns_ = 0;  // between two ends; 0: not known
};

}  // namespace tuppence
