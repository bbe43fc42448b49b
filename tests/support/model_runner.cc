#include "tests/support/model_runner.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "model/checkpoint.h"

namespace tuppence {
namespace {

template <typename T>
T OrDie(absl::StatusOr<T> value) {
  if (!value.ok()) std::cerr << value.status() << std::endl;
  CHECK(value.ok());
  return *std::move(value);
}

}  // namespace

ModelRunner::ModelRunner(const Config& config, const std::string& folder,
                         const RunnerOptions& options, int32_t sequences, int32_t positions)
    : config_(config), sequences_(sequences), blocks_per_sequence_((positions + 15) / 16) {
  backend_ = MakeBackend(options.backend);
  std::unique_ptr<WeightSource> source = OrDie(OpenCheckpoint(folder));
  WeightOptions weight_options;
  weight_options.format = OrDie(ParseWeightFormat(options.weights));
  weights_ =
      std::make_unique<Weights>(OrDie(LoadWeights(config, *source, weight_options, *backend_)));
  const KvLayout layout{.type = options.kv,
                        .layers = config.layers,
                        .kv_heads = config.kv_heads,
                        .head_dim = config.head_dim};
  cache_ = std::make_unique<KvCache>(
      OrDie(KvCache::Make(layout, sequences * blocks_per_sequence_, *backend_)));
  model_ = std::make_unique<Phi3>(
      OrDie(Phi3::Make(config, *weights_, *backend_, options.tokens_max, options.tokens_max)));
}

int32_t ModelRunner::Block(int32_t sequence, int32_t index) const {
  // Sequences interleaved and from the end, so that neighbours in a sequence are far apart.
  return (blocks_per_sequence_ - 1 - index) * sequences_ + sequence;
}

std::vector<std::vector<float>> ModelRunner::Step(const std::vector<RunnerEntry>& entries) {
  std::vector<int32_t> token_ids, positions, slots, starts, tables;
  std::vector<RopeRegime> regimes;
  std::vector<Phase> phases;
  for (const RunnerEntry& entry : entries) {
    starts.push_back(static_cast<int32_t>(token_ids.size()));
    phases.push_back(entry.phase);
    for (size_t i = 0; i < entry.token_ids.size(); ++i) {
      const int32_t position = entry.first_position + static_cast<int32_t>(i);
      token_ids.push_back(entry.token_ids[i]);
      positions.push_back(position);
      regimes.push_back(entry.regime);
      slots.push_back(Block(entry.sequence, position / 16) * 16 + position % 16);
    }
    for (int32_t i = 0; i < blocks_per_sequence_; ++i) tables.push_back(Block(entry.sequence, i));
  }
  starts.push_back(static_cast<int32_t>(token_ids.size()));
  std::vector<int32_t> logit_tokens(token_ids.size());
  std::iota(logit_tokens.begin(), logit_tokens.end(), 0);

  Batch batch;
  batch.token_ids = token_ids;
  batch.positions = positions;
  batch.regimes = regimes;
  batch.slots = slots;
  batch.entry_starts = starts;
  batch.entry_phases = phases;
  batch.block_tables = tables;
  batch.block_table_stride = blocks_per_sequence_;
  batch.logit_tokens = logit_tokens;
  const Tensor logits = model_->Forward(batch, {}, *cache_);
  CHECK(backend_->Synchronize().ok());

  std::vector<std::vector<float>> rows(logit_tokens.size(), std::vector<float>(config_.vocab));
  for (size_t r = 0; r < rows.size(); ++r) {
    const size_t bytes = rows[r].size() * sizeof(float);
    backend_->CopyToHost(logits.as<float>() + r * rows[r].size(), bytes, rows[r].data());
  }
  return rows;
}

std::vector<std::vector<float>> ModelRunner::Prefill(const std::vector<int32_t>& ids,
                                                     RopeRegime regime, int32_t chunk) {
  std::vector<std::vector<float>> rows;
  for (size_t at = 0; at < ids.size(); at += chunk) {
    RunnerEntry entry;
    entry.token_ids.assign(ids.begin() + at,
                           ids.begin() + std::min(ids.size(), at + static_cast<size_t>(chunk)));
    entry.first_position = static_cast<int32_t>(at);
    entry.regime = regime;
    for (std::vector<float>& row : Step({entry})) rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace tuppence
