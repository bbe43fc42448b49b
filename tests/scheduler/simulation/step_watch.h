// StepWatch: what each step takes and who pays for it, held against what scheduler/step_budget.h
// and scheduler/cost_ledger.h promise, with what it saw computed before.
//
//   time     beside running streams a step is modelled to take no longer than the target, or twice
//            the decodes (three times where they alone miss it), or the decodes and one block of a
//            prompt
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

  // These go to the device; nothing of them counts as computed yet.
  void StepPlanned(const Engine& engine, std::span<const Chunk> chunks);
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

  bool IsInTime(std::span<const Chunk> chunks) const;
  void NotePlayers(std::span<const Chunk> chunks);
  StepWork* WorkOfPlayer(const std::string& id);
  void NoteDues(int64_t step_ns);
  void NoteComputed(const Scheduler& scheduler);

  const EngineOptions& options_;
  StepCostModel model_;
  std::map<std::pair<int64_t, int32_t>, Computed> computed_;  // by arrival and choice
  std::map<std::string, double> due_ns_;                      // by id; overhead has none

  // Of the step at hand.
  bool planned_ = false;
  int64_t begin_ns_ = 0;
  std::vector<std::string> players_;
  std::vector<StepWork> works_;
};

}  // namespace tuppence::simulation
