// StepWatch: what each step takes, whom it serves and who pays for it, held against what
// scheduler/step_budget.h, scheduler/scheduler.h and scheduler/cost_ledger.h promise.
//
//   time     beside running streams a step is modelled to take no longer than the target, or twice
//            the decodes (three times where they alone miss it), or the decodes and one block of a
//            prompt
//   turns    the prompt that has been under way longest and the first in line both get on, while
//            places and blocks last
//   charges  a call pays its share, by the step-cost model, of the positions that were computed for
//            it for the first time; what a preemption makes again is nobody's
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "scheduler/engine.h"
#include "scheduler/step_cost_model.h"
#include "tests/scheduler/simulation/fair_watch.h"

namespace tuppence::simulation {

// Consecutive positions of one sequence in a step, all of one phase.
struct Chunk {
  const ActiveRequest* request = nullptr;
  const Sequence* sequence = nullptr;
  int32_t first = 0;
  int32_t end = 0;
  Phase phase = Phase::kPrefill;
};

class StepWatch {
 public:
  explicit StepWatch(const EngineOptions& options);

  // These go to the device; nothing of them counts as computed yet. fair_watch has seen the step.
  void StepPlanned(const Engine& engine, std::span<const Chunk> chunks, const FairWatch& fair_watch,
                   int64_t now_ns);
  // The engine is through with a step, or found nothing to do.
  void StepEnded(const Engine& engine);

  // What the call is to be charged by now, to the nanosecond or two that a carry makes.
  double DueNs(const std::string& id) const;

 private:
  // What has been computed of a sequence, whether or not it was lost since.
  struct Computed {
    RopeRegime regime = RopeRegime::kShort;
    int32_t end = 0;
  };

  // Somebody whom a step did not serve though it could have.
  struct PassedOver {
    int64_t arrival = -1;
    int32_t steps = 0;  // in a row
  };

  bool IsInTime(std::span<const Chunk> chunks) const;
  void CheckTurns(const Engine& engine, std::span<const Chunk> chunks, const FairWatch& fair_watch,
                  int64_t now_ns);
  bool CouldBeServed(const Engine& engine, const SequenceGroup& group, int32_t decodes) const;
  static void NotePassedOver(const SequenceGroup* group, PassedOver* passed_over);
  void NotePlayers(std::span<const Chunk> chunks);
  StepWork* WorkOfPlayer(const std::string& id);
  void NoteDues(int64_t step_ns);
  void NoteComputed(const Scheduler& scheduler);

  const EngineOptions& options_;
  StepCostModel model_;
  std::map<std::pair<int64_t, int32_t>, Computed> computed_;  // by arrival and choice
  std::map<std::string, double> due_ns_;                      // by id; overhead has none
  PassedOver oldest_;
  PassedOver first_;

  // Of the step at hand.
  bool planned_ = false;
  int64_t begin_ns_ = 0;
  std::vector<std::string> players_;
  std::vector<StepWork> works_;
};

}  // namespace tuppence::simulation
