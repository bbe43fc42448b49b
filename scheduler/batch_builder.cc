#include "scheduler/batch_builder.h"

#include <algorithm>
#include <bit>

#include "model/check.h"

namespace tuppence {
namespace {

// Every group that the engine hands to the scheduler is an ActiveRequest.
ActiveRequest* RequestOf(const PlanEntry& entry) {
  return static_cast<ActiveRequest*>(entry.group);
}

}  // namespace

BatchBuilder::BatchBuilder(const BatchLimits& limits)
    : limits_(limits),
      stride_max_((limits.context_tokens + limits.block_tokens - 1) / limits.block_tokens) {
  token_ids_.reserve(limits.tokens_max);
  positions_.reserve(limits.tokens_max);
  regimes_.reserve(limits.tokens_max);
  slots_.reserve(limits.tokens_max);
  entry_starts_.reserve(limits.tokens_max + 1);
  entry_phases_.reserve(limits.tokens_max);
  block_tables_.resize(size_t{1} * limits.tokens_max * stride_max_);
  logit_tokens_.reserve(limits.logit_rows_max);
  sampling_.reserve(sampling_rows_max());
  targets_.reserve(sampling_rows_max());
}

const Batch& BatchBuilder::Build(const StepPlan& plan) {
  CHECK_LE(plan.tokens, limits_.tokens_max);
  CHECK_LE(plan.logit_rows, limits_.logit_rows_max);
  token_ids_.clear();
  positions_.clear();
  regimes_.clear();
  slots_.clear();
  entry_starts_.clear();
  entry_phases_.clear();
  logit_tokens_.clear();
  sampling_.clear();
  targets_.clear();
  stride_ = StrideFor(plan);
  for (const PlanEntry& entry : plan.entries) AddTokens(entry);
  entry_starts_.push_back(static_cast<int32_t>(token_ids_.size()));

  batch_.token_ids = token_ids_;
  batch_.positions = positions_;
  batch_.regimes = regimes_;
  batch_.slots = slots_;
  batch_.entry_starts = entry_starts_;
  batch_.entry_phases = entry_phases_;
  batch_.block_tables = {block_tables_.data(), entry_phases_.size() * stride_};
  batch_.block_table_stride = stride_;
  batch_.logit_tokens = logit_tokens_;
  return batch_;
}

// As narrow as the step's longest sequence allows, in powers of two: a table as wide as the context
// is megabytes to copy where a few kilobytes say the same, and the widths that occur stay few.
int32_t BatchBuilder::StrideFor(const StepPlan& plan) const {
  int32_t end = 1;
  for (const PlanEntry& entry : plan.entries) end = std::max(end, entry.end());
  const int32_t blocks = (end + limits_.block_tokens - 1) / limits_.block_tokens;
  CHECK_LE(blocks, stride_max_);
  return std::min<int32_t>(stride_max_, std::bit_ceil(static_cast<uint32_t>(blocks)));
}

void BatchBuilder::AddTokens(const PlanEntry& entry) {
  const Sequence& sequence = *entry.sequence;
  const std::span<const int32_t> blocks = sequence.blocks.blocks();
  const int32_t first_token = static_cast<int32_t>(token_ids_.size());
  int32_t block = entry.first / limits_.block_tokens;
  int32_t offset = entry.first % limits_.block_tokens;
  for (int32_t position = entry.first; position < entry.end(); ++position) {
    token_ids_.push_back(sequence.tokens[position]);
    positions_.push_back(position);
    regimes_.push_back(sequence.regime);
    slots_.push_back(blocks[block] * limits_.block_tokens + offset);
    if (++offset == limits_.block_tokens) {
      offset = 0;
      ++block;
    }
  }
  if (entry.phase == Phase::kPrefill) {
    AddBatchEntry(sequence, first_token, entry.end(), Phase::kPrefill);
  } else {
    // Positions that were decoded once are decoded again: one row each, in the kernel they had.
    for (int32_t i = 0; i < entry.tokens; ++i) {
      AddBatchEntry(sequence, first_token + i, entry.first + i + 1, Phase::kDecode);
    }
  }
  AddRows(entry, first_token);
}

// An entry whose keys are positions [0, end).
void BatchBuilder::AddBatchEntry(const Sequence& sequence, int32_t first_token, int32_t end,
                                 Phase phase) {
  const size_t row = entry_phases_.size() * stride_;
  const int32_t count = (end + limits_.block_tokens - 1) / limits_.block_tokens;
  const std::span<const int32_t> blocks = sequence.blocks.blocks().first(count);
  std::copy(blocks.begin(), blocks.end(), block_tables_.begin() + row);
  // The rest names a block that exists, so that a kernel may load it before it masks.
  std::fill(block_tables_.begin() + row + count, block_tables_.begin() + row + stride_, blocks[0]);
  entry_starts_.push_back(first_token);
  entry_phases_.push_back(phase);
}

void BatchBuilder::AddRows(const PlanEntry& entry, int32_t first_token) {
  AddScoredRows(entry, first_token);
  if (!entry.draws) return;
  ActiveRequest* request = RequestOf(entry);
  const int32_t logit_row = AddLogitRow(first_token + entry.tokens - 1);
  if (!entry.draws_for_all) {
    AddDraw(request, entry.sequence->choice, logit_row);
    return;
  }
  for (const Sequence& sequence : request->sequences) {
    if (!sequence.finished) AddDraw(request, sequence.choice, logit_row);
  }
}

void BatchBuilder::AddScoredRows(const PlanEntry& entry, int32_t first_token) {
  ActiveRequest* request = RequestOf(entry);
  for (int32_t position = entry.score_first; position < entry.score_end; ++position) {
    SamplingRow row;
    row.logit_row = AddLogitRow(first_token + position - entry.first);
    row.scored_token = request->prompt[position + 1];
    row.logprob = true;
    row.top_logprobs = request->request.sampling.prompt_top_logprobs;
    sampling_.push_back(row);
    targets_.push_back({.request = request, .choice = 0, .scored = true});
  }
}

void BatchBuilder::AddDraw(ActiveRequest* request, int32_t choice, int32_t logit_row) {
  const SamplingParams& params = request->request.sampling;
  const int32_t output_index = request->sequences[choice].output_tokens();
  SamplingRow& row = sampling_.emplace_back();
  row.logit_row = logit_row;
  row.temperature = params.temperature;
  row.top_k = params.top_k;
  row.top_p = params.top_p;
  row.min_p = params.min_p;
  row.repetition_penalty = params.repetition_penalty;
  row.presence_penalty = params.presence_penalty;
  row.frequency_penalty = params.frequency_penalty;
  row.key = {.seed = params.seed.value_or(0), .choice = static_cast<uint32_t>(choice)};
  row.output_index = output_index;
  row.biases = params.logit_bias;
  row.counts = request->choices[choice].counts.counts();
  if (output_index < params.min_tokens) row.banned_ids = request->request.stop_ids;
  row.top_logprobs = params.top_logprobs;
  row.logprob = request->wants_logprobs();
  targets_.push_back({.request = request, .choice = choice, .scored = false});
}

int32_t BatchBuilder::AddLogitRow(int32_t token) {
  logit_tokens_.push_back(token);
  return static_cast<int32_t>(logit_tokens_.size()) - 1;
}

}  // namespace tuppence
