// The same request gives the same tokens and the same log-probabilities, bit for bit: alone with
// room to spare, or among others in a pool so small that prompts are cut into chunks, found in part
// in the prefix cache, and sequences are preempted. The real engine and scheduler over the real
// kernels; only the clock is made.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "model/checkpoint.h"
#include "scheduler/engine.h"
#include "scheduler/phi3_executor.h"
#include "tests/golden/golden_checkpoint.h"
#include "tests/support/backend_case.h"
#include "tests/support/fake_clock.h"

namespace tuppence {
namespace {

struct Answer {
  std::vector<std::vector<int32_t>> tokens;  // of each choice
  std::vector<std::vector<float>> logprobs;  // of each choice
  std::vector<float> prompt_logprobs;
  bool operator==(const Answer&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Answer& answer) {
  for (const auto& choice : answer.tokens) {
    for (const int32_t token : choice) out << token << " ";
    out << "| ";
  }
  return out;
}

struct Tightness {
  int32_t blocks = 0;
  int32_t step_tokens_max = 0;
  int32_t sequences_max = 0;
};

constexpr Tightness kRoomy{.blocks = 200, .step_tokens_max = 256, .sequences_max = 16};
constexpr Tightness kTight{.blocks = 28, .step_tokens_max = 19, .sequences_max = 6};
// For an emulated GPU, which has time for one crowd only.
constexpr Tightness kTighter{.blocks = 24, .step_tokens_max = 19, .sequences_max = 6};

// A checkpoint loaded once; engines come and go over it.
class Machine {
 public:
  Machine(const Golden& golden, const std::string& folder, const std::string& weights, DType kv,
          const BackendCase& backend)
      : config_(golden.config), kv_(kv), mapped_((config_.vocab + 63) / 64, ~uint64_t{0}) {
    backend_ = MakeBackend(backend);
    WeightOptions options;
    options.format = *ParseWeightFormat(weights);
    const std::unique_ptr<WeightSource> source = *OpenCheckpoint(folder);
    weights_ = std::make_unique<Weights>(*LoadWeights(config_, *source, options, *backend_));
  }

  // Runs all requests together and returns their answers. Counts preemptions into *preemptions.
  std::vector<Answer> Run(const std::vector<Request>& requests, const Tightness& tightness,
                          int64_t* preemptions) {
    EngineOptions options;
    options.context_tokens = 160;
    options.blocks = tightness.blocks;
    options.block_tokens = 16;
    options.sequences_max = tightness.sequences_max;
    options.step_tokens_max = tightness.step_tokens_max;
    options.prefill_tokens_min = 4;
    options.logit_rows_max = 32;
    options.positions_original = config_.long_rope ? config_.short_rope_tokens_max() : 0;
    const KvLayout layout{.type = kv_,
                          .layers = config_.layers,
                          .kv_heads = config_.kv_heads,
                          .head_dim = config_.head_dim};
    const KvCache cache = *KvCache::Make(layout, options.blocks, *backend_);
    Phi3 model =
        *Phi3::Make(config_, *weights_, *backend_, BatchTokensMax(options), options.logit_rows_max);
    Phi3Executor executor(&model, &cache, backend_.get(), mapped_);
    FakeClock clock;
    Engine engine(options, &executor, nullptr, &clock);
    std::vector<Request> submitted = requests;
    for (Request& request : submitted) {
      request.stream =
          std::make_shared<TokenStream>(request.sampling.choices, TokenStream::Limits{});
      const absl::Status status = engine.Submit(request);
      if (!status.ok()) std::cerr << status << std::endl;
      CHECK(status.ok());
    }
    std::vector<Answer> answers;
    for (int step = 0; engine.Snapshot().requests_ended < int64_t(requests.size()); ++step) {
      CHECK_LT(step, 20000);
      engine.Step();
    }
    for (const Request& request : submitted) answers.push_back(Take(*request.stream));
    *preemptions = engine.Snapshot().preemptions;
    hit_tokens_ += engine.Snapshot().prefix.hit_tokens;
    EXPECT_EQ(engine.Snapshot().blocks_used, 0);
    return answers;
  }

  int64_t hit_tokens() const { return hit_tokens_; }  // of all runs

 private:
  static Answer Take(TokenStream& stream) {
    StreamDelta delta;
    CHECK(stream.Take(&delta));
    CHECK(delta.end.has_value());
    EXPECT_TRUE(delta.end->status.ok()) << delta.end->status;
    Answer answer;
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

  int64_t hit_tokens_ = 0;
  Config config_;
  DType kv_;
  std::vector<uint64_t> mapped_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Weights> weights_;
};

std::vector<Request> RandomRequests(const Config& config, uint32_t seed, int count) {
  std::mt19937 random(seed);
  const auto draw = [&random](int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(random);
  };
  // Every other prompt begins as the others do.
  std::vector<int32_t> shared(64);
  std::mt19937 shared_random(seed);
  for (int32_t& token : shared) token = static_cast<int32_t>(shared_random() % config.vocab);
  std::vector<Request> requests(count);
  for (int i = 0; i < count; ++i) {
    Request& request = requests[i];
    request.id = "r" + std::to_string(i);
    request.tenant = "unknown";
    const int prompt_tokens = draw(1, 90);
    for (int t = 0; t < prompt_tokens; ++t) request.prompt.push_back(draw(0, config.vocab - 1));
    if (i % 2 == 0) {
      std::copy_n(shared.begin(), std::min(shared.size(), request.prompt.size()),
                  request.prompt.begin());
    }
    SamplingParams& sampling = request.sampling;
    sampling.max_tokens = draw(1, 50);
    sampling.choices = draw(0, 3) == 0 ? draw(2, 3) : 1;
    sampling.temperature = draw(0, 2) == 0 ? 0.0f : 0.9f;
    sampling.seed = random();
    sampling.top_p = draw(0, 1) == 0 ? 1.0f : 0.8f;
    if (draw(0, 1) == 0) sampling.repetition_penalty = 1.3f;
    if (draw(0, 1) == 0) sampling.frequency_penalty = 0.4f;
    sampling.logprobs = true;
    sampling.prompt_logprobs = draw(0, 3) == 0;
    request.text_output = false;
  }
  return requests;
}

struct Case {
  const char* golden;
  const char* weights;
  DType kv;
  BackendCase backend = {};
};

class ReproducibilityTest : public testing::TestWithParam<Case> {};

TEST_P(ReproducibilityTest, AnswersAreTheSameAloneAndInATightCrowd) {
  const Golden golden = ReadGolden(GetParam().golden);
  TemporaryFolder folder;
  WriteGoldenCheckpoint(golden, folder.path());
  Machine machine(golden, folder.path(), GetParam().weights, GetParam().kv, GetParam().backend);
  int64_t preemptions = 0;
  const bool emulated = GetParam().backend.emulated();
  const uint32_t seeds = emulated ? 1 : 6;
  for (uint32_t seed = 1; seed <= seeds; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    const std::vector<Request> requests = RandomRequests(golden.config, seed, emulated ? 8 : 14);
    int64_t count = 0;
    const std::vector<Answer> crowd = machine.Run(requests, emulated ? kTighter : kTight, &count);
    preemptions += count;
    for (size_t i = 0; i < requests.size(); ++i) {
      const std::vector<Answer> alone = machine.Run({requests[i]}, kRoomy, &count);
      EXPECT_EQ(count, 0);
      EXPECT_EQ(crowd[i], alone[0]) << requests[i].id;
    }
  }
  EXPECT_GT(preemptions, 0) << "the pool was not tight enough to show anything";
  EXPECT_GT(machine.hit_tokens(), 0) << "no prompt was found again";
}

TEST_P(ReproducibilityTest, TheFirstOfSeveralChoicesEqualsASingleOne) {
  const Golden golden = ReadGolden(GetParam().golden);
  TemporaryFolder folder;
  WriteGoldenCheckpoint(golden, folder.path());
  Machine machine(golden, folder.path(), GetParam().weights, GetParam().kv, GetParam().backend);
  std::vector<Request> requests = RandomRequests(golden.config, 7, 1);
  requests[0].sampling.temperature = 1;
  requests[0].sampling.max_tokens = 30;
  requests[0].sampling.choices = 3;
  int64_t preemptions = 0;
  const Answer three = machine.Run(requests, kRoomy, &preemptions)[0];
  requests[0].sampling.choices = 1;
  const Answer one = machine.Run(requests, kRoomy, &preemptions)[0];
  EXPECT_EQ(three.tokens[0], one.tokens[0]);
  EXPECT_NE(three.tokens[0], three.tokens[1]);
  EXPECT_NE(three.tokens[1], three.tokens[2]);
}

std::vector<Case> Cases() {
  std::vector<Case> cases = {{"mini_4k_window_31", "bf16", DType::kBf16},
                             {"mini_128k_longrope_64", "bf16", DType::kI8},
                             {"phi_4_mini", "int8", DType::kI8},
                             {"medium_4k", "int4", DType::kBf16}};
  for (const BackendCase& backend : BestBackendCases()) {
    if (backend.cpu()) continue;
    if (backend.half == DType::kBf16) {
      cases.push_back({"mini_4k_window_31", "bf16", DType::kBf16, backend});
      cases.push_back({"phi_4_mini", "int8", DType::kI8, backend});
    } else {
      cases.push_back({"mini_128k_longrope_64", "f16", DType::kF16, backend});
      cases.push_back({"mini_4k_window_31", "int4", DType::kI8, backend});
    }
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(All, ReproducibilityTest, testing::ValuesIn(Cases()),
                         [](const auto& info) {
                           return std::string(info.param.golden) + "_" + info.param.weights + "_" +
                                  NameOf(info.param.kv) + "_" + info.param.backend.name();
                         });

}  // namespace
}  // namespace tuppence
