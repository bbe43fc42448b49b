// StepExecutor: the device's part of a step, as the engine sees it: run a batch, give back tokens.
// Phi3Executor (scheduler/phi3_executor) runs the model on a backend; NullExecutor answers at once
// and measures the host's own time; the simulator's keeps virtual time.
// Thread: the engine's.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "absl/status/status.h"
#include "model/batch.h"

namespace tuppence {

// Work of the step that touches whole KV blocks, done before the batch's first op.
struct BlockWork {
  std::span<const int32_t> zero;       // blocks that change tenant
  std::span<const int32_t> copy_from;  // partial prompt blocks of n > 1, one for one with copy_to
  std::span<const int32_t> copy_to;
};

class StepExecutor {
 public:
  virtual ~StepExecutor() = default;

  // Starts the step: block work, forward, sampling. Spans must stay valid until Wait returns.
  virtual void Launch(const BlockWork& blocks, const Batch& batch,
                      std::span<const SamplingRow> sampling) = 0;

  // Waits for the step. tokens[i] belongs to sampling[i] of Launch.
  virtual absl::Status Wait(std::span<SampledToken> tokens) = 0;

  // Electrical power that the device takes now, where that can be read.
  virtual std::optional<double> watts() const { return std::nullopt; }
};

}  // namespace tuppence
