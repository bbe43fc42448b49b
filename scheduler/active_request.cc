#include "scheduler/active_request.h"

#include <algorithm>
#include <utility>

#include "model/check.h"

namespace tuppence {
namespace {

bool HasPenalty(const SamplingParams& sampling) {
  return sampling.repetition_penalty != 1 || sampling.presence_penalty != 0 ||
         sampling.frequency_penalty != 0;
}

}  // namespace

void PenaltyCounts::Start(const std::vector<int32_t>& prompt, int32_t max_tokens) {
  on_ = true;
  counts_.reserve(prompt.size() + max_tokens);
  index_.reserve(prompt.size() + max_tokens);
  for (const int32_t token_id : prompt) Find(token_id).in_prompt = true;
}

void PenaltyCounts::Add(int32_t token_id) {
  if (on_) ++Find(token_id).output_count;
}

TokenCount& PenaltyCounts::Find(int32_t token_id) {
  const auto [place, is_new] = index_.try_emplace(token_id, static_cast<int32_t>(counts_.size()));
  if (is_new) counts_.push_back({.token_id = token_id});
  return counts_[place->second];
}

ActiveRequest::ActiveRequest(Request request_in, int64_t arrival_in, int64_t tenant_in,
                             const Tokenizer* tokenizer)
    : request(std::move(request_in)) {
  arrival = arrival_in;
  tenant = tenant_in;
  priority_class = request.priority_class;
  weight_milli = request.weight_milli;
  prompt = std::exchange(request.prompt, {});
  prefix_keys = std::exchange(request.prefix_keys, {});
  max_tokens = request.sampling.max_tokens;
  wants_prompt_logprobs = request.sampling.prompt_logprobs;
  choices.resize(request.sampling.choices);
  const bool decodes = request.text_output || !request.sampling.stop_strings.empty();
  for (Choice& choice : choices) {
    if (HasPenalty(request.sampling)) choice.counts.Start(prompt, max_tokens);
    if (tokenizer == nullptr || !decodes) continue;
    choice.decoder.emplace(
        tokenizer,
        StreamDecoderOptions{.stop_strings = request.sampling.stop_strings,
                             .drop_leading_space = request.drop_leading_space,
                             .include_stop_string = request.sampling.include_stop_string});
  }
}

FinishReason ActiveRequest::AddToken(int32_t choice, int32_t token_id, std::string* text) {
  Sequence& sequence = sequences[choice];
  sequence.TakeToken(token_id);
  ++completion_tokens;
  choices[choice].counts.Add(token_id);
  if (IsStopId(token_id)) return FinishReason::kStop;  // counted and listed, never shown
  std::optional<StreamDecoder>& decoder = choices[choice].decoder;
  if (decoder.has_value()) {
    const bool stopped = decoder->Push(token_id, text);
    if (!request.text_output) text->clear();
    if (stopped) return FinishReason::kStop;
  }
  return sequence.output_tokens() >= max_tokens ? FinishReason::kLength : FinishReason::kNone;
}

void ActiveRequest::FlushText(int32_t choice, std::string* text) {
  if (choices[choice].decoder.has_value() && request.text_output) {
    choices[choice].decoder->Finish(text);
  }
}

bool ActiveRequest::IsStopId(int32_t token_id) const {
  const std::vector<int32_t>& ids = request.stop_ids;
  return std::find(ids.begin(), ids.end(), token_id) != ids.end();
}

StepWork ActiveRequest::NextWork() const {
  StepWork work;
  for (const Sequence& sequence : sequences) {
    if (sequence.finished || sequence.follows) continue;
    const int32_t first = std::max(sequence.computed, sequence.recompute_end);
    if (first >= sequence.length()) continue;
    const Phase phase = first < sequence.prefill_end ? Phase::kPrefill : Phase::kDecode;
    work.Add(WorkOf(first, sequence.length(), phase));
  }
  return work;
}

void ActiveRequest::CountBlocks(int64_t now_ns, int32_t block_tokens) {
  kv_block_ns += kv_blocks * (now_ns - kv_since_ns);
  kv_since_ns = now_ns;
  if (sequences.size() == 1) {
    kv_blocks = sequences[0].blocks.size();
    return;
  }
  kv_blocks = 0;
  int64_t sharing = 0;
  const int32_t prompt_blocks = prompt_tokens() / block_tokens;
  for (const Sequence& sequence : sequences) {
    kv_blocks += sequence.blocks.size();
    sharing += !sequence.crossed() && sequence.blocks.size() >= prompt_blocks;
  }
  // Choices hold the prompt's full blocks together, unless each has its own set aside.
  if (sharing > 1 && !pinned) kv_blocks -= (sharing - 1) * prompt_blocks;
}

Usage ActiveRequest::UsageAt(int64_t now_ns) const {
  Usage usage;
  usage.prompt_tokens = prompt_tokens();
  usage.cached_tokens = cached_tokens;
  usage.completion_tokens = completion_tokens;
  usage.preemptions = preemptions;
  usage.steps = static_cast<int32_t>(steps);
  usage.energy_joules = energy_joules;
  if (steps > 0) {
    usage.mean_requests_per_step =
        static_cast<double>(requests_in_steps) / static_cast<double>(steps);
  }
  // A request that never got somewhere spent the rest of its time on the way there. One that comes
  // while a step begins is received a little after the moment that the step goes by.
  const auto at_least_received = [&](int64_t ns) { return std::max(ns, request.received_ns); };
  const int64_t end_ns = at_least_received(now_ns);
  const int64_t scheduled_ns =
      first_scheduled_ns < 0 ? end_ns : at_least_received(first_scheduled_ns);
  const int64_t token_ns = first_token_ns < 0 ? end_ns : at_least_received(first_token_ns);
  usage.queue_ns = scheduled_ns - request.received_ns;
  usage.prefill_ns = token_ns - scheduled_ns;
  usage.decode_ns = end_ns - token_ns;
  usage.total_ns = end_ns - request.received_ns;
  if (first_token_ns >= 0) usage.time_to_first_token_ns = token_ns - request.received_ns;
  return usage;
}

}  // namespace tuppence
