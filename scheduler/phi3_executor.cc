#include "scheduler/phi3_executor.h"

namespace tuppence {

void Phi3Executor::Launch(const BlockWork& blocks, const Batch& batch,
                          std::span<const SamplingRow> sampling) {
  for (int32_t i = 0; i < cache_->layout().layers; ++i) {
    if (!blocks.zero.empty()) backend_->ZeroBlocks(blocks.zero, cache_->layer(i));
    if (!blocks.copy_to.empty()) {
      backend_->CopyBlocks(blocks.copy_from, blocks.copy_to, cache_->layer(i));
    }
  }
  sampled_ = sampling.size();
  if (batch.tokens() > 0) logits_ = model_->Forward(batch, {sampling, mapped_ids_}, *cache_);
}

absl::Status Phi3Executor::Wait(std::span<SampledToken> tokens) {
  CHECK_EQ(tokens.size(), sampled_);
  if (!tokens.empty()) backend_->Sample(logits_, tokens);
  return backend_->Synchronize();
}

}  // namespace tuppence
