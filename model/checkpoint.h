// A model by its name on the command line: a checkpoint folder as downloaded, or synthetic weights
// of a published shape ("synthetic:phi-3-mini-4k"). Used by main and the tools.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "model/config.h"
#include "model/weight_source.h"

namespace tuppence {

// The tensors of FOLDER: model.safetensors, or the shards that model.safetensors.index.json lists.
// Every header is read and checked here; no tensor is.
absl::StatusOr<std::unique_ptr<WeightSource>> OpenCheckpoint(const std::string& folder);

struct ModelFiles {
  Config config;
  std::unique_ptr<WeightSource> source;
  int files_compared;  // with the folder's SHA256SUMS
};

// `model` is a folder or "synthetic:NAME".
absl::StatusOr<ModelFiles> OpenModel(const std::string& model);

}  // namespace tuppence
