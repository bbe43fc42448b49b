// DeadlineWatch: which calls hear at once that they would come too late, by a look at everybody who
// waits as a step begins, and the same estimate (scheduler/start_estimate). One for each step.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "scheduler/engine.h"
#include "tests/scheduler/simulation/call.h"
#include "tests/scheduler/simulation/scenario.h"

namespace tuppence::simulation {

class DeadlineWatch {
 public:
  // A step is about to begin. Everything outlives the watch.
  DeadlineWatch(const Scenario& scenario, const Engine& engine, int64_t now_ns);

  // The step is over, and these came in at its beginning, in this order: each is told what must
  // become of it.
  void Judge(std::span<const std::unique_ptr<Call>> newcomers);

 private:
  struct Waiting {
    int32_t tenant = 0;
    PriorityClass priority_class = PriorityClass::kStandard;
    int64_t prompt_tokens = 0;
    int64_t tokens_left = 0;
    bool goes_first = false;  // whoever else of its tenant waits: it lost its place, or has aged
  };

  bool IsLate(const Waiting& newcomer, const CallPlan& plan, int64_t deadline_ns) const;
  QueueAhead AheadOf(const Waiting& newcomer) const;

  const Scenario& scenario_;
  const int64_t now_ns_;
  const StepCostCoefficients costs_;
  const StartEstimate estimate_;
  const int32_t places_free_;
  std::vector<Waiting> waiting_;
};

}  // namespace tuppence::simulation
