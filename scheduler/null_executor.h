// NullExecutor: answers every step at once with tokens made by a hash, so that what remains is the
// host's own time. For benchmarks and for the service's tests. Thread: the engine's.
#pragma once

#include <cstdint>
#include <span>

#include "scheduler/step_executor.h"

namespace tuppence {

class NullExecutor final : public StepExecutor {
 public:
  // Tokens are 0 to vocab - 1, never a banned one. Requires: vocab is more than the banned ids.
  explicit NullExecutor(int32_t vocab) : vocab_(vocab) {}

  void Launch(const BlockWork& blocks, const Batch& batch,
              std::span<const SamplingRow> sampling) override;
  absl::Status Wait(std::span<SampledToken> tokens) override;

 private:
  const int32_t vocab_;
  std::span<const SamplingRow> sampling_;
};

}  // namespace tuppence
