// Synthetic weights: a model of a published shape without a download, for benchmarks, memory plans
// and tests. The shapes are the published ones; the numbers are pseudo-random with the scale of
// trained weights, and LongRoPE's factors are made up, so the answers mean nothing.
// Used by OpenModel for "synthetic:phi-3-mini-4k".
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/config.h"
#include "model/weight_source.h"

namespace tuppence {

bool IsSyntheticName(const std::string& model);

// "phi-3-mini-4k", ... without the prefix, in the order of the README.
std::vector<std::string> SyntheticNames();

// The config of "synthetic:NAME". Errors list the names there are.
absl::StatusOr<Config> SyntheticConfig(const std::string& model);

// Tensors of any config. The same config and seed give the same numbers on every machine, however
// the rows are cut into chunks. Type: config.dtype; bf16, f16 and f32 hold the same values.
std::unique_ptr<WeightSource> MakeSyntheticWeights(const Config& config, uint64_t seed = 1);

}  // namespace tuppence
