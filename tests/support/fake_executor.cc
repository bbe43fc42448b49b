#include "tests/support/fake_executor.h"

#include <algorithm>
#include <bit>

#include "model/check.h"

namespace tuppence {
namespace {

uint64_t Mix(uint64_t value) {
  value += 0x9E3779B97F4A7C15u;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
  return value ^ (value >> 31);
}

bool Banned(const SamplingRow& row, int32_t token) {
  return std::find(row.banned_ids.begin(), row.banned_ids.end(), token) != row.banned_ids.end();
}

}  // namespace

uint64_t FakeState(uint64_t before, int32_t token_id, int32_t position, RopeRegime regime,
                   Phase phase) {
  const uint64_t key = (static_cast<uint64_t>(token_id) << 32) ^
                       (static_cast<uint64_t>(position) << 2) ^
                       (static_cast<uint64_t>(regime) << 1) ^ static_cast<uint64_t>(phase);
  return Mix(before ^ Mix(key));
}

uint64_t FakeAttend(uint64_t hash, uint64_t state) { return hash * 31 + state; }

uint64_t FakeLogits(std::span<const int32_t> tokens, int32_t prefill_end, RopeRegime regime) {
  uint64_t hash = 0;
  uint64_t state = kFakeStart;
  for (int32_t position = 0; position < static_cast<int32_t>(tokens.size()); ++position) {
    const Phase phase = position < prefill_end ? Phase::kPrefill : Phase::kDecode;
    state = FakeState(state, tokens[position], position, regime, phase);
    hash = FakeAttend(hash, state);
  }
  return hash;
}

int32_t FakeToken(uint64_t hash, const SamplingRow& row, int32_t vocab) {
  hash = Mix(hash ^ row.key.seed);
  hash = Mix(hash ^ (uint64_t{row.key.choice} << 32) ^ static_cast<uint64_t>(row.output_index));
  hash = Mix(hash ^ std::bit_cast<uint32_t>(row.temperature));
  // Penalties: the order of the counts means nothing.
  uint64_t counts = 0;
  for (const TokenCount& count : row.counts) {
    counts += Mix((static_cast<uint64_t>(count.token_id) << 32) ^
                  (static_cast<uint64_t>(count.output_count) << 1) ^ count.in_prompt);
  }
  hash = Mix(hash ^ counts);
  int32_t token = static_cast<int32_t>(hash % static_cast<uint64_t>(vocab));
  while (Banned(row, token)) token = (token + 1) % vocab;
  return token;
}

FakeExecutor::FakeExecutor(const Options& options, FakeClock* clock)
    : options_(options),
      clock_(clock),
      states_(size_t{1} * options.blocks * options.block_tokens) {}

void FakeExecutor::Launch(const BlockWork& blocks, const Batch& batch,
                          std::span<const SamplingRow> sampling) {
  if (batch.tokens() == 0) {  // block work alone
    CHECK(sampling.empty());
    DoBlockWork(blocks);
    sampling_ = sampling;
    return;
  }
  CheckShapes(batch, sampling);
  DoBlockWork(blocks);
  StoreTokens(batch);
  logits_.clear();
  for (const int32_t token : batch.logit_tokens) logits_.push_back(LogitsOf(batch, token));
  sampling_ = sampling;
  ++steps_;
  if (clock_ != nullptr) clock_->Advance(options_.step_ns + 1009 * batch.tokens());
  if (on_launch) on_launch(blocks, batch, sampling);
}

absl::Status FakeExecutor::Wait(std::span<SampledToken> tokens) {
  if (!fail_with.ok()) return fail_with;
  CHECK_EQ(tokens.size(), sampling_.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    const SamplingRow& row = sampling_[i];
    const uint64_t hash = logits_[row.logit_row];
    SampledToken& sampled = tokens[i];
    sampled.token_id =
        row.scored_token >= 0 ? row.scored_token : FakeToken(hash, row, options_.vocab);
    sampled.logprob = -static_cast<float>(hash % 1024) / 64;
    sampled.not_finite = not_finite && not_finite(row);
    sampled.top_count = row.top_logprobs;
    for (int32_t k = 0; k < row.top_logprobs; ++k) {
      sampled.top[k] = {.token_id = k, .logprob = -static_cast<float>(k)};
    }
  }
  return absl::OkStatus();
}

void FakeExecutor::CheckShapes(const Batch& batch, std::span<const SamplingRow> sampling) const {
  const size_t tokens = batch.token_ids.size();
  CHECK_GT(tokens, size_t{0});
  CHECK_EQ(batch.positions.size(), tokens);
  CHECK_EQ(batch.regimes.size(), tokens);
  CHECK_EQ(batch.slots.size(), tokens);
  CHECK_EQ(batch.entry_starts.size(), batch.entry_phases.size() + 1);
  CHECK_EQ(batch.entry_starts.front(), 0);
  CHECK_EQ(batch.entry_starts.back(), batch.tokens());
  CHECK_EQ(batch.block_tables.size(),
           batch.entry_phases.size() * static_cast<size_t>(batch.block_table_stride));
  for (int32_t entry = 0; entry < batch.entries(); ++entry) {
    const int32_t first = batch.entry_starts[entry];
    const int32_t end = batch.entry_starts[entry + 1];
    CHECK_LT(first, end);
    if (batch.entry_phases[entry] == Phase::kDecode) CHECK_EQ(end, first + 1);
    for (int32_t token = first; token < end; ++token) {
      CHECK_EQ(batch.positions[token], batch.positions[first] + token - first);
      const int32_t block = batch.positions[token] / options_.block_tokens;
      CHECK_LT(block, batch.block_table_stride);
      CHECK_EQ(batch.slots[token], batch.block_tables[entry * batch.block_table_stride + block] *
                                           options_.block_tokens +
                                       batch.positions[token] % options_.block_tokens);
    }
  }
  for (const SamplingRow& row : sampling) {
    CHECK_GE(row.logit_row, 0);
    CHECK_LT(row.logit_row, batch.logit_rows());
  }
}

void FakeExecutor::DoBlockWork(const BlockWork& blocks) {
  const int32_t size = options_.block_tokens;
  for (const int32_t block : blocks.zero) {
    std::fill_n(states_.begin() + block * size, size, 0);
  }
  CHECK_EQ(blocks.copy_from.size(), blocks.copy_to.size());
  for (size_t i = 0; i < blocks.copy_from.size(); ++i) {
    CHECK_NE(blocks.copy_from[i], blocks.copy_to[i]);
    std::copy_n(states_.begin() + blocks.copy_from[i] * size, size,
                states_.begin() + blocks.copy_to[i] * size);
  }
}

void FakeExecutor::StoreTokens(const Batch& batch) {
  for (int32_t entry = 0; entry < batch.entries(); ++entry) {
    for (int32_t t = batch.entry_starts[entry]; t < batch.entry_starts[entry + 1]; ++t) {
      const int32_t position = batch.positions[t];
      const uint64_t before = position == 0 ? kFakeStart : StateAt(batch, entry, position - 1);
      states_[batch.slots[t]] = FakeState(before, batch.token_ids[t], position, batch.regimes[t],
                                          batch.entry_phases[entry]);
    }
  }
}

uint64_t FakeExecutor::StateAt(const Batch& batch, int32_t entry, int32_t position) const {
  const int32_t block =
      batch.block_tables[entry * batch.block_table_stride + position / options_.block_tokens];
  return states_[block * options_.block_tokens + position % options_.block_tokens];
}

// What the token's attention sees: every position up to its own, through the block table.
uint64_t FakeExecutor::LogitsOf(const Batch& batch, int32_t token) const {
  const auto next = std::upper_bound(batch.entry_starts.begin(), batch.entry_starts.end(), token);
  const int32_t entry = static_cast<int32_t>(next - batch.entry_starts.begin()) - 1;
  uint64_t hash = 0;
  for (int32_t position = 0; position <= batch.positions[token]; ++position) {
    hash = FakeAttend(hash, StateAt(batch, entry, position));
  }
  return hash;
}

}  // namespace tuppence
