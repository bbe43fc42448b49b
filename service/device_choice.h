// DeviceChoice: what a model runs on and in which types, from the options and what the machine has.
// Used by model_loader.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/backend.h"
#include "model/config.h"
#include "model/weights.h"
#include "service/options.h"

namespace tuppence {

struct DeviceChoice {
  std::unique_ptr<Backend> backend;
  WeightFormat weights;
  DType kv = DType::kBf16;
  int64_t memory_available_bytes = 0;
  std::string kernels;             // which, and why
  std::vector<std::string> notes;  // what was found and taken, a line each, for the log
};

// FAILED_PRECONDITION where the machine lacks what was asked for; INVALID_ARGUMENT for types that
// do not go with the backend or with each other.
absl::StatusOr<DeviceChoice> ChooseDevice(const ModelOptions& options, const Config& config);

}  // namespace tuppence
