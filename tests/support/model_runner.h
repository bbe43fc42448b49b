// ModelRunner: a checkpoint folder on a backend, driven without a scheduler: one sequence or
// several, in the chunks that a test asks for. For tests of the layer sequence as a whole.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/kv_cache.h"
#include "model/phi3.h"
#include "model/weights.h"
#include "tests/support/backend_case.h"

namespace tuppence {

struct RunnerOptions {
  std::string weights = "f32";  // as --weights
  DType kv = DType::kF32;
  BackendCase backend;
  int32_t tokens_max = 512;
};

// One run of consecutive tokens of one sequence.
struct RunnerEntry {
  int32_t sequence = 0;  // each has its own share of the pool
  std::vector<int32_t> token_ids;
  int32_t first_position = 0;
  RopeRegime regime = RopeRegime::kShort;
  Phase phase = Phase::kPrefill;
};

class ModelRunner {
 public:
  // CHECKs that everything loads. Blocks lie scattered through the pool on purpose.
  ModelRunner(const Config& config, const std::string& folder, const RunnerOptions& options,
              int32_t sequences, int32_t positions);

  // Runs the entries in one step. Returns the logits of every token, in order: [tokens][vocab].
  std::vector<std::vector<float>> Step(const std::vector<RunnerEntry>& entries);

  // Runs the whole prompt of sequence 0 in chunks of `chunk` tokens; logits of every token.
  std::vector<std::vector<float>> Prefill(const std::vector<int32_t>& ids, RopeRegime regime,
                                          int32_t chunk);

  const Backend& backend() const { return *backend_; }

 private:
  int32_t Block(int32_t sequence, int32_t index) const;

  Config config_;
  int32_t sequences_;
  int32_t blocks_per_sequence_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Weights> weights_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Phi3> model_;
};

}  // namespace tuppence
