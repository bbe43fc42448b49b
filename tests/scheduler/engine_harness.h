// EngineHarness: an engine on a fake device and a clock turned by hand, driven step by step on the
// test's own thread; and the oracle that says what each request must get, from that request alone.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "scheduler/engine.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_executor.h"

namespace tuppence {

constexpr int32_t kTestVocab = 97;

// What a request's stream carried.
struct Received {
  std::vector<std::vector<int32_t>> token_ids;  // by choice
  std::vector<std::string> text;
  std::vector<FinishReason> finish_reasons;
  std::vector<PositionLogprobs> prompt_logprobs;
  std::vector<std::vector<PositionLogprobs>> logprobs;
  std::optional<RequestEnd> end;
  int32_t ends = 0;
};

struct Expected {
  std::vector<int32_t> token_ids;
  FinishReason finish_reason = FinishReason::kNone;
};

EngineOptions SmallEngineOptions();

// A greedy request of `prompt_tokens` pseudo-random tokens.
Request MakeRequest(const std::string& id, int32_t prompt_tokens, int32_t max_tokens,
                    uint64_t seed = 1, TokenStream::Limits limits = {});

// What the choice must get if nothing ends the request early.
Expected ExpectedAnswer(const Request& request, int32_t choice, const EngineOptions& options);

class EngineHarness {
 public:
  explicit EngineHarness(const EngineOptions& options, const Tokenizer* tokenizer = nullptr);

  // Index of the request, for received() and request().
  int32_t Submit(Request request);
  // One step, then all readers read and the invariants are checked.
  bool Step();
  void StepWithoutReading();
  // Steps until every request has ended. Fails the test after steps_max.
  void Run(int32_t steps_max = 10'000);
  void Read(int32_t index);
  void ReadAll();

  // The answer is whole and right, for each choice.
  void ExpectWhole(int32_t index) const;
  // Nothing but a beginning of the right answer, and ended with the status and reason.
  void ExpectPart(int32_t index, absl::StatusCode code, FinishReason reason) const;
  // Every request has ended exactly once and nothing is held any more.
  void ExpectAtRest() const;
  void CheckInvariants() const;

  const Received& received(int32_t index) const { return received_[index]; }
  const Request& request(int32_t index) const { return requests_[index]; }
  int32_t requests() const { return static_cast<int32_t>(requests_.size()); }
  TokenStream& stream(int32_t index) { return *requests_[index].stream; }
  bool ended(int32_t index) const { return received_[index].end.has_value(); }
  FakeClock& clock() { return clock_; }
  FakeExecutor& executor() { return executor_; }
  Engine& engine() { return *engine_; }
  const EngineOptions& options() const { return options_; }
  // Everything that reached streams so far, as one number: equal runs have equal numbers.
  uint64_t trace() const { return trace_; }

 private:
  const EngineOptions options_;
  FakeClock clock_;
  FakeExecutor executor_;
  const int64_t start_ns_;
  std::unique_ptr<Engine> engine_;
  std::vector<Request> requests_;
  std::vector<Received> received_;
  uint64_t trace_ = 0;
};

}  // namespace tuppence
