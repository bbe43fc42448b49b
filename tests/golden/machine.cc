#include "tests/golden/machine.h"

#include "model/checkpoint.h"
#include "scheduler/phi3_executor.h"

namespace tuppence {
namespace {

// Goes on by a microsecond whenever it is asked, so that steps take time.
class TickingClock final : public Clock {
 public:
  int64_t NowNs() const override { return now_ns_ += 1'000; }
  int64_t UtcNs() const override { return now_ns_; }

 private:
  mutable int64_t now_ns_ = 0;
};

EngineOptions OptionsOf(const Config& config, const Tightness& tightness) {
  EngineOptions options;
  options.context_tokens = 160;
  options.blocks = tightness.blocks;
  options.block_tokens = 16;
  options.sequences_max = tightness.sequences_max;
  options.step_tokens_max = tightness.step_tokens_max;
  options.prefill_tokens_min = 4;
  options.logit_rows_max = 32;
  options.rate_card = {"test", 3'600'000'000};  // a nanodollar is a nanosecond
  options.positions_original = config.long_rope ? config.short_rope_tokens_max() : 0;
  return options;
}

Answer Take(TokenStream& stream) {
  StreamDelta delta;
  CHECK(stream.Take(&delta));
  CHECK(delta.end.has_value());
  Answer answer;
  answer.status = delta.end->status;
  answer.usage = delta.end->usage;
  answer.cost = delta.end->cost;
  for (const ChoiceDelta& choice : delta.choices) {
    answer.tokens.push_back(choice.token_ids);
    answer.logprobs.emplace_back();
    for (const PositionLogprobs& one : choice.logprobs) {
      answer.logprobs.back().push_back(one.chosen.logprob);
    }
  }
  for (const PositionLogprobs& one : delta.prompt_logprobs) {
    answer.prompt_logprobs.push_back(one.chosen.logprob);
  }
  return answer;
}

}  // namespace

bool operator==(const Answer& a, const Answer& b) {
  return a.tokens == b.tokens && a.logprobs == b.logprobs &&
         a.prompt_logprobs == b.prompt_logprobs && a.status == b.status;
}

std::ostream& operator<<(std::ostream& out, const Answer& answer) {
  for (const auto& choice : answer.tokens) {
    for (const int32_t token : choice) out << token << " ";
    out << "| ";
  }
  return out << answer.status;
}

Machine::Machine(const Golden& golden, const std::string& folder, const std::string& weights,
                 DType kv, const BackendCase& backend)
    : config_(golden.config), kv_(kv), mapped_((config_.vocab + 63) / 64, ~uint64_t{0}) {
  backend_ = MakeBackend(backend);
  WeightOptions options;
  options.format = *ParseWeightFormat(weights);
  const std::unique_ptr<WeightSource> source = *OpenCheckpoint(folder);
  weights_ = std::make_unique<Weights>(*LoadWeights(config_, *source, options, *backend_));
}

std::vector<Answer> Machine::Run(const std::vector<Request>& requests, const Tightness& tightness,
                                 int64_t* preemptions) {
  return RunInTurn({requests}, tightness, preemptions);
}

std::vector<Answer> Machine::RunInTurn(const std::vector<std::vector<Request>>& turns,
                                       const Tightness& tightness, int64_t* preemptions) {
  const EngineOptions options = OptionsOf(config_, tightness);
  const KvLayout layout{.type = kv_,
                        .layers = config_.layers,
                        .kv_heads = config_.kv_heads,
                        .head_dim = config_.head_dim};
  const KvCache cache = *KvCache::Make(layout, options.blocks, *backend_);
  Phi3 model =
      *Phi3::Make(config_, *weights_, *backend_, BatchTokensMax(options), options.logit_rows_max);
  Phi3Executor executor(&model, &cache, backend_.get(), mapped_);
  TickingClock clock;
  Engine engine(options, &executor, nullptr, &clock);
  std::vector<Answer> answers;
  for (std::vector<Request> turn : turns) {
    for (Request& request : turn) {
      request.stream =
          std::make_shared<TokenStream>(request.sampling.choices, TokenStream::Limits{});
      const absl::Status status = engine.Submit(request);
      if (!status.ok()) std::cerr << status << std::endl;
      CHECK(status.ok());
    }
    const auto all = static_cast<int64_t>(answers.size() + turn.size());
    for (int step = 0; engine.Snapshot().requests_ended < all; ++step) {
      CHECK_LT(step, 20000);
      engine.Step();
    }
    for (const Request& request : turn) answers.push_back(Take(*request.stream));
  }
  *preemptions = engine.Snapshot().preemptions;
  hit_tokens_ += engine.Snapshot().prefix.hit_tokens;
  CHECK_EQ(engine.Snapshot().blocks_used, 0);
  return answers;
}

}  // namespace tuppence
