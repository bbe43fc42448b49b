// MemoryPlan: what a model takes before it is loaded, and whether that fits. Pure; used by
// model_loader, shown by `serve` and `serve --check`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/config.h"
#include "model/kv_layout.h"
#include "model/weights.h"

namespace tuppence {

struct MemoryPlan {
  int64_t weights_bytes = 0;
  int64_t staging_bytes = 0;  // while loading only
  int64_t scratch_bytes = 0;  // activations and logits of one step
  int64_t kv_bytes = 0;
  int64_t reserve_bytes = 0;  // for everything else: connections, queues, the program itself
  int64_t available_bytes = 0;
  int32_t kv_blocks = 0;
  KvLayout kv_layout;

  int64_t total_bytes() const { return weights_bytes + scratch_bytes + kv_bytes + reserve_bytes; }
  // One line for each part.
  std::string Describe() const;
};

struct MemoryQuestion {
  Config config;
  WeightFormat weights;
  DType kv = DType::kBf16;
  ActivationTypes activations;
  uint64_t kv_memory_bytes = 0;  // 0: as much as is useful and there
  int32_t sequences_max = 0;
  int32_t batch_tokens_max = 0;
  int32_t logit_rows_max = 0;
  int64_t available_bytes = 0;
};

// RESOURCE_EXHAUSTED with the numbers, and with the weight and KV types that would fit.
absl::StatusOr<MemoryPlan> PlanMemory(const MemoryQuestion& question);

// "7.6 GiB", "16.0 MiB".
std::string FormatBytes(int64_t bytes);
const char* NameOfKv(DType type);

}  // namespace tuppence
