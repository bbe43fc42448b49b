// The machines of a plan with the model on them: does it fit, how many blocks are left for keys and
// values, how long does a step take. From the table of speeds, or as a running service has measured
// its own steps.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/config.h"
#include "service/options.h"
#include "service/planner/machine_speeds.h"
#include "service/planner/plan.h"

namespace tuppence {

struct PlanModel {
  ModelOptions options;  // types, limits and kv_memory_bytes
  Config config;
  double itl_target_ms = 100;
};

// Where the model cannot run, fits says why.
PlanMachine MachineFor(const MachineSpeed& speed, const PlanModel& model, Assume assume);

// The machine of a service that runs, by its saved /status page: step costs as fitted to its own
// steps, its blocks and limits. INVALID_ARGUMENT where the page says nothing of them.
absl::StatusOr<PlanMachine> MachineOfStatus(const std::string& path, double itl_target_ms);

}  // namespace tuppence
