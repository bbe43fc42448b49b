// model_loader: from options to a model that can take steps: backend, weights, KV cache, executor,
// and what the engine and the service must know of it. The one function that knows all the parts.
// Used by serve (behind a server) and by local_service (inside a command). Thread: the starting
// one.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/config.h"
#include "scheduler/engine.h"
#include "scheduler/step_executor.h"
#include "service/memory_plan.h"
#include "service/options.h"
#include "service/served_model.h"

namespace tuppence {

// What is loaded, and what the others must know of it. Derived classes own the parts.
class LoadedModel {
 public:
  virtual ~LoadedModel() = default;
  virtual StepExecutor* executor() = 0;

  ServedModel served;
  EngineOptions engine;  // blocks, limits and step costs; the caller adds price and clock times
  std::vector<std::string> notes;  // what was found and taken, a line each, for the log
  std::string memory_plan;         // lines; "" for the null model
};

struct LoadOptions {
  ModelOptions model;
  std::function<void(int64_t bytes_done, int64_t bytes_total)> progress;  // may be empty
};

// What the options and the config say of the engine: all but blocks and step costs.
EngineOptions EngineOptionsOf(const ModelOptions& options, const Config& config);

// Errors say what was being loaded, what was found and the way out; RESOURCE_EXHAUSTED where the
// model does not fit, with the numbers and the types that would.
absl::StatusOr<std::unique_ptr<LoadedModel>> LoadModel(const LoadOptions& options);

}  // namespace tuppence
