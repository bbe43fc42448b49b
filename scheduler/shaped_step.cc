#include "scheduler/shaped_step.h"

#include <algorithm>

#include "model/check.h"

namespace tuppence {
namespace {

int32_t BlocksFor(int64_t tokens, int32_t block_tokens) {
  return static_cast<int32_t>((tokens + block_tokens - 1) / block_tokens);
}

}  // namespace

ShapedStep::ShapedStep(std::span<const ShapedEntry> entries, int32_t block_tokens,
                       int32_t first_block) {
  CHECK(!entries.empty());
  for (const ShapedEntry& entry : entries) {
    batch_.block_table_stride =
        std::max(batch_.block_table_stride, BlocksFor(entry.end, block_tokens));
  }
  for (const ShapedEntry& entry : entries) AddEntry(entry, block_tokens, first_block);
  entry_starts_.push_back(static_cast<int32_t>(token_ids_.size()));
  sampled_.resize(sampling_.size());
  batch_.token_ids = token_ids_;
  batch_.positions = positions_;
  batch_.regimes = regimes_;
  batch_.slots = slots_;
  batch_.entry_starts = entry_starts_;
  batch_.entry_phases = entry_phases_;
  batch_.block_tables = block_tables_;
  batch_.logit_tokens = logit_tokens_;
}

void ShapedStep::AddEntry(const ShapedEntry& entry, int32_t block_tokens, int32_t first_block) {
  CHECK_LT(entry.first, entry.end);
  const int32_t first = first_block + blocks_;
  const int32_t held = BlocksFor(entry.end, block_tokens);
  entry_starts_.push_back(static_cast<int32_t>(token_ids_.size()));
  entry_phases_.push_back(entry.phase);
  for (int32_t i = 0; i < batch_.block_table_stride; ++i) {
    block_tables_.push_back(first + (i < held ? i : 0));
  }
  for (int64_t position = entry.first; position < entry.end; ++position) {
    token_ids_.push_back(0);
    positions_.push_back(static_cast<int32_t>(position));
    regimes_.push_back(RopeRegime::kShort);
    slots_.push_back(static_cast<int32_t>(first * block_tokens + position));
  }
  blocks_ += held;
  SamplingRow row;
  row.logit_row = static_cast<int32_t>(logit_tokens_.size());
  sampling_.push_back(row);
  logit_tokens_.push_back(static_cast<int32_t>(token_ids_.size()) - 1);
  work_.Add(WorkOf(entry.first, entry.end, entry.phase));
}

absl::Status ShapedStep::Run(StepExecutor* executor) {
  executor->Launch(BlockWork(), batch_, sampling_);
  return executor->Wait(sampled_);
}

}  // namespace tuppence
