// Phi3Executor: a step on a real device: block work, the model's layers, sampling.
// Made by service/serve; called by the engine's thread alone.
#pragma once

#include <span>

#include "model/kv_cache.h"
#include "model/phi3.h"
#include "scheduler/step_executor.h"

namespace tuppence {

class Phi3Executor : public StepExecutor {
 public:
  // All outlive the executor. `mapped_ids` has one bit for each id that may be drawn.
  Phi3Executor(Phi3* model, const KvCache* cache, Backend* backend,
               std::span<const uint64_t> mapped_ids)
      : model_(model), cache_(cache), backend_(backend), mapped_ids_(mapped_ids) {}

  void Launch(const BlockWork& blocks, const Batch& batch,
              std::span<const SamplingRow> sampling) override;
  absl::Status Wait(std::span<SampledToken> tokens) override;
  std::optional<double> watts() const override { return backend_->watts(); }

 private:
  Phi3* model_;
  const KvCache* cache_;
  Backend* backend_;
  std::span<const uint64_t> mapped_ids_;
  Tensor logits_;
  size_t sampled_ = 0;  // rows of the step that runs
};

}  // namespace tuppence
