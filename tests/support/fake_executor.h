// FakeExecutor: a device whose next token is a hash of what the batch's block tables lead to. What
// it stores for a position is a hash of that position (token id, number, regime, kernel) and of
// what lay before it in the pages when it was computed, so that a wrong block, position, regime or
// phase, a bad resume, a lost copy or a neighbour's influence changes the output; FakeLogits and
// FakeToken are the few lines of truth to hold it against. Used by the tests of the engine and,
// with a clock, as the simulator's device.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "scheduler/step_executor.h"
#include "tests/support/fake_clock.h"

namespace tuppence {

// What is stored for a position after the one that stores `before` (kFakeStart before the first).
constexpr uint64_t kFakeStart = 0x7570706e65636521u;
uint64_t FakeState(uint64_t before, int32_t token_id, int32_t position, RopeRegime regime,
                   Phase phase);
// A running hash over the states that a position's attention sees.
uint64_t FakeAttend(uint64_t hash, uint64_t state);

// The logits of a sequence's last token, as a hash: all of it in one regime, positions below
// prefill_end with the prefill kernel.
uint64_t FakeLogits(std::span<const int32_t> tokens, int32_t prefill_end, RopeRegime regime);

// The token that logits with this hash give to this row.
int32_t FakeToken(uint64_t hash, const SamplingRow& row, int32_t vocab);

class FakeExecutor : public StepExecutor {
 public:
  struct Options {
    int32_t blocks = 0;
    int32_t block_tokens = 0;
    int32_t vocab = 1000;
    int64_t step_ns = 1'000'003;  // the clock moves on by so much, and a little for each token
  };

  // clock may be null: then time stands still.
  FakeExecutor(const Options& options, FakeClock* clock);

  void Launch(const BlockWork& blocks, const Batch& batch,
              std::span<const SamplingRow> sampling) override;
  absl::Status Wait(std::span<SampledToken> tokens) override;
  std::optional<double> watts() const override { return power; }

  // Faults to inject.
  absl::Status fail_with;       // the next Wait returns it
  std::optional<double> power;  // what the device takes
  // A row for which it says true comes out as not finite.
  std::function<bool(const SamplingRow&)> not_finite;
  // Called at the end of each Launch, to look at what came.
  std::function<void(const BlockWork&, const Batch&, std::span<const SamplingRow>)> on_launch;

  int64_t steps() const { return steps_; }

 private:
  void CheckShapes(const Batch& batch, std::span<const SamplingRow> sampling) const;
  void DoBlockWork(const BlockWork& blocks);
  void StoreTokens(const Batch& batch);
  uint64_t StateAt(const Batch& batch, int32_t entry, int32_t position) const;
  uint64_t LogitsOf(const Batch& batch, int32_t token) const;

  const Options options_;
  FakeClock* const clock_;
  std::vector<uint64_t> states_;  // [blocks * block_tokens]
  std::vector<uint64_t> logits_;
  std::span<const SamplingRow> sampling_;
  int64_t steps_ = 0;
};

}  // namespace tuppence
