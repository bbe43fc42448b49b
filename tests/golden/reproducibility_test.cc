// The same request gives the same tokens and the same log-probabilities, bit for bit: alone with
// room to spare, or among others in a pool so small that prompts are cut into chunks, found in part
// in the prefix cache, and sequences are preempted. The real engine and scheduler over the real
// kernels; only the clock is made.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "absl/strings/str_cat.h"
#include "tests/golden/golden_checkpoint.h"
#include "tests/golden/machine.h"

namespace tuppence {
namespace {

constexpr Tightness kTight{.blocks = 28, .step_tokens_max = 19, .sequences_max = 6};
// For an emulated GPU, which has time for one crowd only.
constexpr Tightness kTighter{.blocks = 24, .step_tokens_max = 19, .sequences_max = 6};

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
    request.id = absl::StrCat("r", i);
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
      EXPECT_TRUE(alone[0].status.ok()) << alone[0].status;
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
