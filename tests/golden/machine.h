// Machine: a checkpoint on a backend, served by the real engine and scheduler; only the clock is
// made. For tests of what a request's company may do to its answer.
#pragma once

#include <cstdint>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/weights.h"
#include "scheduler/engine.h"
#include "tests/golden/golden_checkpoint.h"
#include "tests/support/backend_case.h"

namespace tuppence {

struct Answer {
  std::vector<std::vector<int32_t>> tokens;  // of each choice
  std::vector<std::vector<float>> logprobs;  // of each choice
  std::vector<float> prompt_logprobs;
  absl::Status status;
  Usage usage;
  Cost cost;
};

// The same bits; not what they cost.
bool operator==(const Answer& a, const Answer& b);
std::ostream& operator<<(std::ostream& out, const Answer& answer);

struct Tightness {
  int32_t blocks = 0;
  int32_t step_tokens_max = 0;
  int32_t sequences_max = 0;
};
constexpr Tightness kRoomy{.blocks = 200, .step_tokens_max = 256, .sequences_max = 16};

// A checkpoint loaded once; engines come and go over it.
class Machine {
 public:
  Machine(const Golden& golden, const std::string& folder, const std::string& weights, DType kv,
          const BackendCase& backend);

  // Runs all requests together and returns their answers. Counts preemptions into *preemptions.
  std::vector<Answer> Run(const std::vector<Request>& requests, const Tightness& tightness,
                          int64_t* preemptions);
  // The same in turns: each waits until those before it have ended.
  std::vector<Answer> RunInTurn(const std::vector<std::vector<Request>>& turns,
                                const Tightness& tightness, int64_t* preemptions);

  int64_t hit_tokens() const { return hit_tokens_; }  // of all runs
  const Weights& weights() const { return *weights_; }

 private:
  int64_t hit_tokens_ = 0;
  Config config_;
  DType kv_;
  std::vector<uint64_t> mapped_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Weights> weights_;
};

}  // namespace tuppence
