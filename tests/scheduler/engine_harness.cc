#include "tests/scheduler/engine_harness.h"

#include <algorithm>
#include <map>
#include <random>
#include <utility>

#include "gtest/gtest.h"

namespace tuppence {
namespace {

bool HasPenalty(const SamplingParams& params) {
  return params.repetition_penalty != 1 || params.presence_penalty != 0 ||
         params.frequency_penalty != 0;
}

std::vector<TokenCount> CountsOf(const std::vector<int32_t>& tokens, size_t prompt_tokens) {
  std::map<int32_t, TokenCount> counts;
  for (size_t i = 0; i < tokens.size(); ++i) {
    TokenCount& count = counts[tokens[i]];
    count.token_id = tokens[i];
    if (i < prompt_tokens) {
      count.in_prompt = true;
    } else {
      ++count.output_count;
    }
  }
  std::vector<TokenCount> list;
  for (const auto& [id, count] : counts) list.push_back(count);
  return list;
}

FakeExecutor::Options ExecutorOptions(const EngineOptions& options) {
  FakeExecutor::Options executor;
  executor.blocks = options.blocks;
  executor.block_tokens = options.block_tokens;
  executor.vocab = kTestVocab;
  return executor;
}

}  // namespace

EngineOptions SmallEngineOptions() {
  EngineOptions options;
  options.context_tokens = 256;
  options.blocks = 64;
  options.block_tokens = 4;
  options.sequences_max = 8;
  options.step_tokens_max = 32;
  options.prefill_tokens_min = 8;
  options.logit_rows_max = 16;
  options.inbox_max = 64;
  options.rate_card = {.id = "test-card", .micro_usd_per_hour = 500'000};
  return options;
}

Request MakeRequest(const std::string& id, int32_t prompt_tokens, int32_t max_tokens, uint64_t seed,
                    TokenStream::Limits limits) {
  std::mt19937_64 random(seed);
  Request request;
  request.id = id;
  request.tenant = "tenant";
  for (int32_t i = 0; i < prompt_tokens; ++i) {
    request.prompt.push_back(static_cast<int32_t>(random() % kTestVocab));
  }
  request.sampling.temperature = 0;
  request.sampling.seed = seed;
  request.sampling.max_tokens = max_tokens;
  request.text_output = false;
  request.stream = std::make_shared<TokenStream>(8, limits);
  return request;
}

Expected ExpectedAnswer(const Request& request, int32_t choice, const EngineOptions& options) {
  const SamplingParams& params = request.sampling;
  const int32_t border = options.positions_original;
  const int32_t prompt_tokens = static_cast<int32_t>(request.prompt.size());
  const int32_t settled =
      options.rope_policy == RopePolicy::kExact ? prompt_tokens : prompt_tokens + params.max_tokens;
  RopeRegime regime = border > 0 && settled > border ? RopeRegime::kLong : RopeRegime::kShort;
  int32_t prefill_end = prompt_tokens;
  std::vector<int32_t> tokens = request.prompt;
  Expected expected;
  while (expected.finish_reason == FinishReason::kNone) {
    if (border > 0 && options.rope_policy == RopePolicy::kExact && regime == RopeRegime::kShort &&
        static_cast<int32_t>(tokens.size()) > border) {
      regime = RopeRegime::kLong;
      prefill_end = border + 1;
    }
    const std::vector<TokenCount> counts = CountsOf(tokens, request.prompt.size());
    SamplingRow row;
    row.key = {.seed = *params.seed, .choice = static_cast<uint32_t>(choice)};
    row.output_index = static_cast<int32_t>(expected.token_ids.size());
    row.temperature = params.temperature;
    if (HasPenalty(params)) row.counts = counts;
    if (row.output_index < params.min_tokens) row.banned_ids = request.stop_ids;
    const int32_t token = FakeToken(FakeLogits(tokens, prefill_end, regime), row, kTestVocab);
    tokens.push_back(token);
    expected.token_ids.push_back(token);
    if (std::count(request.stop_ids.begin(), request.stop_ids.end(), token) > 0) {
      expected.finish_reason = FinishReason::kStop;
    } else if (static_cast<int32_t>(expected.token_ids.size()) == params.max_tokens) {
      expected.finish_reason = FinishReason::kLength;
    }
  }
  return expected;
}

EngineHarness::EngineHarness(const EngineOptions& options, const Tokenizer* tokenizer)
    : options_(options),
      executor_(ExecutorOptions(options), &clock_),
      start_ns_(clock_.NowNs()),
      engine_(std::make_unique<Engine>(options, &executor_, tokenizer, &clock_)) {}

int32_t EngineHarness::Submit(Request request) {
  if (request.received_ns == 0) request.received_ns = clock_.NowNs();
  request.stream =
      std::make_shared<TokenStream>(request.sampling.choices, request.stream->limits());
  requests_.push_back(request);
  Received received;
  received.token_ids.resize(request.sampling.choices);
  received.text.resize(request.sampling.choices);
  received.logprobs.resize(request.sampling.choices);
  received.finish_reasons.resize(request.sampling.choices, FinishReason::kNone);
  received_.push_back(std::move(received));
  const absl::Status status = engine_->Submit(std::move(request));
  EXPECT_TRUE(status.ok()) << status;
  return requests() - 1;
}

bool EngineHarness::Step() {
  const bool worked = engine_->Step();
  ReadAll();
  CheckInvariants();
  return worked;
}

void EngineHarness::StepWithoutReading() {
  engine_->Step();
  CheckInvariants();
}

void EngineHarness::Run(int32_t steps_max) {
  const auto all_ended = [&] {
    return std::all_of(received_.begin(), received_.end(),
                       [](const Received& received) { return received.end.has_value(); });
  };
  for (int32_t step = 0; !all_ended(); ++step) {
    ASSERT_LT(step, steps_max) << "requests do not end";
    Step();
  }
}

void EngineHarness::Read(int32_t index) {
  StreamDelta delta;
  if (!stream(index).Take(&delta)) return;
  Received& received = received_[index];
  EXPECT_EQ(received.ends, 0) << "something after the end";
  for (size_t c = 0; c < delta.choices.size(); ++c) {
    const ChoiceDelta& choice = delta.choices[c];
    received.text[c] += choice.text;
    received.token_ids[c].insert(received.token_ids[c].end(), choice.token_ids.begin(),
                                 choice.token_ids.end());
    received.logprobs[c].insert(received.logprobs[c].end(), choice.logprobs.begin(),
                                choice.logprobs.end());
    for (const int32_t token : choice.token_ids) trace_ = trace_ * 1'000'003 + token + index;
    if (choice.finish_reason == FinishReason::kNone) continue;
    EXPECT_EQ(received.finish_reasons[c], FinishReason::kNone) << "finished twice";
    received.finish_reasons[c] = choice.finish_reason;
  }
  received.prompt_logprobs.insert(received.prompt_logprobs.end(), delta.prompt_logprobs.begin(),
                                  delta.prompt_logprobs.end());
  if (!delta.end.has_value()) return;
  received.end = std::move(delta.end);
  ++received.ends;
  trace_ = trace_ * 1'000'003 + static_cast<uint64_t>(received.end->cost.machine_ns);
}

void EngineHarness::ReadAll() {
  for (int32_t index = 0; index < requests(); ++index) Read(index);
}

void EngineHarness::ExpectWhole(int32_t index) const {
  const Received& received = received_[index];
  const Request& request = requests_[index];
  ASSERT_TRUE(received.end.has_value());
  EXPECT_TRUE(received.end->status.ok()) << received.end->status;
  int64_t completion_tokens = 0;
  for (int32_t choice = 0; choice < request.sampling.choices; ++choice) {
    const Expected expected = ExpectedAnswer(request, choice, options_);
    EXPECT_EQ(received.token_ids[choice], expected.token_ids) << request.id << " choice " << choice;
    EXPECT_EQ(received.finish_reasons[choice], expected.finish_reason);
    EXPECT_EQ(received.end->finish_reasons[choice], expected.finish_reason);
    completion_tokens += static_cast<int64_t>(expected.token_ids.size());
  }
  EXPECT_EQ(received.end->usage.prompt_tokens, static_cast<int64_t>(request.prompt.size()));
  EXPECT_EQ(received.end->usage.completion_tokens, completion_tokens);
}

void EngineHarness::ExpectPart(int32_t index, absl::StatusCode code, FinishReason reason) const {
  const Received& received = received_[index];
  ASSERT_TRUE(received.end.has_value());
  EXPECT_EQ(received.end->status.code(), code) << received.end->status;
  int64_t completion_tokens = 0;
  for (int32_t choice = 0; choice < requests_[index].sampling.choices; ++choice) {
    const Expected expected = ExpectedAnswer(requests_[index], choice, options_);
    const std::vector<int32_t>& got = received.token_ids[choice];
    completion_tokens += static_cast<int64_t>(got.size());
    ASSERT_LE(got.size(), expected.token_ids.size());
    EXPECT_TRUE(std::equal(got.begin(), got.end(), expected.token_ids.begin()));
    const FinishReason finish_reason = received.finish_reasons[choice];
    if (finish_reason == reason) continue;
    EXPECT_EQ(finish_reason, expected.finish_reason);  // this choice had finished before
    EXPECT_EQ(got, expected.token_ids);
  }
  EXPECT_EQ(received.end->usage.completion_tokens, completion_tokens)
      << "nothing may come after the end";
}

void EngineHarness::ExpectAtRest() const {
  int64_t machine_ns = 0;
  for (const Received& received : received_) {
    EXPECT_EQ(received.ends, 1);
    if (!received.end.has_value()) continue;
    const Cost& cost = received.end->cost;
    EXPECT_EQ(cost.machine_ns, cost.shared_ns + cost.own_ns);
    EXPECT_EQ(cost.machine_ns, cost.prefill_ns + cost.decode_ns);
    machine_ns += cost.machine_ns;
  }
  EXPECT_EQ(engine_->ledger().totals().request_ns, machine_ns);
  EXPECT_EQ(engine_->pool().blocks_used(), 0);
  EXPECT_EQ(engine_->scheduler().running(), 0);
  EXPECT_EQ(engine_->scheduler().waiting(), 0);
  EXPECT_EQ(engine_->scheduler().sequences_running(), 0);
}

void EngineHarness::CheckInvariants() const {
  const CostLedger& ledger = engine_->ledger();
  EXPECT_EQ(ledger.totals().sum_ns(), ledger.last_cut_ns() - start_ns_);
  const BlockPool& pool = engine_->pool();
  std::vector<int32_t> owners(pool.blocks_total(), 0);
  int32_t sequences = 0;
  for (const SequenceGroup* group : engine_->scheduler().running_groups()) {
    EXPECT_LE(group->preemptions, options_.preemptions_max);
    for (const Sequence& sequence : group->sequences) {
      sequences += !sequence.finished;
      for (const int32_t block : sequence.blocks.blocks()) ++owners[block];
    }
  }
  EXPECT_EQ(sequences, engine_->scheduler().sequences_running());
  EXPECT_LE(sequences, options_.sequences_max);
  int32_t used = 0;
  for (int32_t block = 0; block < pool.blocks_total(); ++block) {
    EXPECT_EQ(pool.references(block), owners[block]) << "block " << block;
    used += owners[block] > 0;
  }
  EXPECT_EQ(pool.blocks_used(), used);
}

}  // namespace tuppence
