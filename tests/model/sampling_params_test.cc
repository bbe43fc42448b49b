// What the one validator of sampling parameters lets through, and what it says of the rest.
#include "model/sampling_params.h"

#include <cmath>
#include <functional>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tuppence {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr SamplingLimits kLimits{.vocab = 32064, .context_tokens = 4096};
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

SamplingParams Good() {
  SamplingParams params;
  params.max_tokens = 16;
  return params;
}

std::vector<FieldViolation> Check(const std::function<void(SamplingParams&)>& change,
                                  int64_t prompt_tokens = 10, SamplingLimits limits = kLimits) {
  SamplingParams params = Good();
  change(params);
  return CheckSamplingParams(params, prompt_tokens, limits);
}

auto Violates(const char* field, const char* words) {
  return ElementsAre(AllOf(Field(&FieldViolation::field, field),
                           Field(&FieldViolation::description, HasSubstr(words))));
}

TEST(SamplingParamsTest, DefaultsAreServed) {
  EXPECT_THAT(CheckSamplingParams(Good(), 10, kLimits), IsEmpty());
}

TEST(SamplingParamsTest, EndsOfEveryRangeAreServed) {
  EXPECT_THAT(Check([](SamplingParams& p) {
                p.temperature = 2;
                p.top_k = 32064;
                p.top_p = 1;
                p.min_p = 1;
                p.repetition_penalty = 10;
                p.presence_penalty = -2;
                p.frequency_penalty = 2;
                p.logit_bias = {{0, -100}, {32063, 100}};
                p.choices = 8;
                p.max_tokens = 4086;
                p.min_tokens = 4086;
                p.stop_strings = {"a", std::string(128, 'b'), "c", "\xC3\xA9"};
                p.stop_ids = std::vector<int32_t>(16, 32063);
                p.top_logprobs = 20;
                p.prompt_top_logprobs = 20;
                p.seed = std::numeric_limits<uint64_t>::max();
              }),
              IsEmpty());
  EXPECT_THAT(Check([](SamplingParams& p) {
                p.temperature = -0.0f;
                p.top_p = std::numeric_limits<float>::denorm_min();
                p.repetition_penalty = std::numeric_limits<float>::denorm_min();
              }),
              IsEmpty());
}

TEST(SamplingParamsTest, FloatsOutsideTheirRangeAreRefused) {
  for (const float bad : {-0.01f, 2.01f, kNan, kInfinity, -kInfinity}) {
    EXPECT_THAT(Check([&](SamplingParams& p) { p.temperature = bad; }),
                Violates("sampling.temperature", "allowed is 0 to 2"))
        << bad;
  }
  for (const float bad : {0.0f, -0.5f, 1.01f, kNan, kInfinity}) {
    EXPECT_THAT(Check([&](SamplingParams& p) { p.top_p = bad; }),
                Violates("sampling.top_p", "above 0 to 1"))
        << bad;
  }
  for (const float bad : {-0.01f, 1.01f, kNan}) {
    EXPECT_THAT(Check([&](SamplingParams& p) { p.min_p = bad; }),
                Violates("sampling.min_p", "0 to 1"))
        << bad;
  }
  for (const float bad : {0.0f, -1.0f, 10.5f, kNan}) {
    EXPECT_THAT(Check([&](SamplingParams& p) { p.repetition_penalty = bad; }),
                Violates("sampling.repetition_penalty", "above 0 to 10"))
        << bad;
  }
  for (const float bad : {-2.01f, 2.01f, kNan, -kInfinity}) {
    EXPECT_THAT(Check([&](SamplingParams& p) { p.presence_penalty = bad; }),
                Violates("sampling.presence_penalty", "-2 to 2"))
        << bad;
    EXPECT_THAT(Check([&](SamplingParams& p) { p.frequency_penalty = bad; }),
                Violates("sampling.frequency_penalty", "-2 to 2"))
        << bad;
  }
}

TEST(SamplingParamsTest, CountsOutsideTheirRangeAreRefused) {
  constexpr int32_t kLowest = std::numeric_limits<int32_t>::min();
  constexpr int32_t kHighest = std::numeric_limits<int32_t>::max();
  for (const int32_t bad : {-2, -1, 32065, kLowest, kHighest}) {
    EXPECT_THAT(Check([&](SamplingParams& p) { p.top_k = bad; }),
                Violates("sampling.top_k", "0 to 32064"));
  }
  for (const int32_t bad : {0, -1, 9, 1000000, kHighest}) {
    EXPECT_THAT(Check([&](SamplingParams& p) { p.choices = bad; }),
                Violates("sampling.n", "1 to 8"));
  }
  for (const int32_t bad : {-1, 21, 32063, 32064, kHighest}) {
    EXPECT_THAT(Check([&](SamplingParams& p) { p.top_logprobs = bad; }),
                Violates("output.top_logprobs", "0 to 20"));
    EXPECT_THAT(Check([&](SamplingParams& p) { p.prompt_top_logprobs = bad; }),
                Violates("output.prompt_top_logprobs", "0 to 20"));
  }
  for (const int32_t bad : {-1, 17, kHighest}) {
    EXPECT_THAT(Check([&](SamplingParams& p) { p.min_tokens = bad; }),
                Violates("sampling.min_tokens", "0 to 16"));
  }
}

TEST(SamplingParamsTest, AnswerFitsTheContextExactlyOrIsRefusedWithBothNumbers) {
  EXPECT_THAT(Check([](SamplingParams& p) { p.max_tokens = 96; }, 4000), IsEmpty());
  EXPECT_THAT(Check([](SamplingParams& p) { p.max_tokens = 97; }, 4000),
              Violates("sampling.max_tokens",
                       "the prompt has 4000 tokens and max_tokens is 97; together they exceed the "
                       "model's context of 4096 tokens; shorten the prompt or lower max_tokens"));
  EXPECT_THAT(Check([](SamplingParams& p) { p.max_tokens = std::numeric_limits<int32_t>::max(); },
                    std::numeric_limits<int32_t>::max()),
              Violates("sampling.max_tokens", "exceed"));
  for (const int32_t bad : {0, -1, std::numeric_limits<int32_t>::min()}) {
    EXPECT_THAT(Check([&](SamplingParams& p) { p.max_tokens = bad; }),
                Violates("sampling.max_tokens", "at least 1"));
  }
}

TEST(SamplingParamsTest, BiasesNeedRealIdsAndFiniteValues) {
  for (const int32_t bad : {-1, 32064, std::numeric_limits<int32_t>::max()}) {
    EXPECT_EQ(Check([&](SamplingParams& p) { p.logit_bias = {{bad, 1}}; }).size(), 1);
  }
  for (const float bad : {100.5f, -100.5f, kNan, kInfinity, -kInfinity}) {
    EXPECT_THAT(Check([&](SamplingParams& p) {
                  p.logit_bias = {{7, bad}};
                }),
                Violates("sampling.logit_bias[7]", "-100 to 100"))
        << bad;
  }
  EXPECT_THAT(Check([](SamplingParams& p) {
                p.logit_bias.resize(100000, {-1, kNan});
              }),
              Violates("sampling.logit_bias", "has 100000 entries; at most 1024"));
}

TEST(SamplingParamsTest, StopsAreFewShortAndText) {
  EXPECT_THAT(Check([](SamplingParams& p) { p.stop_strings.assign(5, "x"); }),
              Violates("sampling.stop", "5 strings; at most 4"));
  EXPECT_THAT(Check([](SamplingParams& p) {
                p.stop_strings = {"a", ""};
              }),
              Violates("sampling.stop[1]", "has 0 bytes"));
  EXPECT_THAT(Check([](SamplingParams& p) { p.stop_strings = {std::string(1 << 20, 'x')}; }),
              Violates("sampling.stop[0]", "has 1048576 bytes; allowed is 1 to 128"));
  EXPECT_THAT(Check([](SamplingParams& p) { p.stop_strings = {"\xC3"}; }),
              Violates("sampling.stop[0]", "not valid UTF-8"));
  EXPECT_THAT(Check([](SamplingParams& p) { p.stop_ids.assign(17, 1); }),
              Violates("sampling.stop_token_ids", "17 ids; at most 16"));
  EXPECT_THAT(Check([](SamplingParams& p) {
                p.stop_ids = {1, -1};
              }),
              Violates("sampling.stop_token_ids[1]", "0 to 32063"));
  SamplingLimits no_text = kLimits;
  no_text.has_tokenizer = false;
  EXPECT_THAT(Check([](SamplingParams& p) { p.stop_strings = {"x"}; }, 10, no_text),
              Violates("sampling.stop", "no supported tokenizer"));
}

TEST(SamplingParamsTest, EveryViolationIsNamedInOneAnswer) {
  EXPECT_EQ(Check([](SamplingParams& p) {
              p.temperature = -1;
              p.top_p = 0;
              p.choices = 0;
              p.max_tokens = 0;
            }).size(),
            4);
}

}  // namespace
}  // namespace tuppence
