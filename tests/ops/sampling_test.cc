// Sampling: every rule of a SamplingRow, the distribution of draws, log-probabilities, and the same
// token on every path, alone or among others.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "model/philox.h"
#include "tests/ops/ops_fixture.h"

namespace tuppence::testing {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<uint64_t> AllMapped(size_t vocab) {
  return std::vector<uint64_t>((vocab + 63) / 64, ~uint64_t{0});
}

class SamplingTest : public OpsTest {
 protected:
  // Draws once for each row; all rows read the same logits.
  std::vector<SampledToken> Sample(const std::vector<float>& logits, std::vector<SamplingRow> rows,
                                   std::vector<uint64_t> mapped = {}) {
    if (mapped.empty()) mapped = AllMapped(logits.size());
    return RunSample(*backend, logits, 1, {rows, mapped});
  }
  SampledToken SampleOne(const std::vector<float>& logits, const SamplingRow& row,
                         const std::vector<uint64_t>& mapped = {}) {
    return Sample(logits, {row}, mapped)[0];
  }
  // Which ids come out, and how often, over draws with different output indices.
  std::map<int32_t, int> Histogram(const std::vector<float>& logits, SamplingRow row, int draws) {
    std::vector<SamplingRow> rows;
    for (int i = 0; i < draws; ++i) {
      row.output_index = i;
      rows.push_back(row);
    }
    std::map<int32_t, int> counts;
    for (const SampledToken& token : Sample(logits, rows)) ++counts[token.token_id];
    return counts;
  }
  std::set<int32_t> Drawn(const std::vector<float>& logits, const SamplingRow& row,
                          int draws = 600) {
    std::set<int32_t> ids;
    for (const auto& [id, count] : Histogram(logits, row, draws)) ids.insert(id);
    return ids;
  }
};

SamplingRow Hot(float temperature = 1) {
  SamplingRow row;
  row.temperature = temperature;
  row.key = {0x123456789abcdefULL, 0};
  return row;
}

TEST_P(SamplingTest, GreedyTakesTheLargestAndTiesGoToTheLowerId) {
  EXPECT_EQ(SampleOne({1, 5, 3, 5, 2}, {}).token_id, 1);
  EXPECT_EQ(SampleOne({-7, -7, -7}, {}).token_id, 0);
  std::vector<float> logits = RandomTensors(1).Normal(32064);
  logits[31999] = 9;
  EXPECT_EQ(SampleOne(logits, {}).token_id, 31999);
}

TEST_P(SamplingTest, UnmappedAndBannedIdsAreNeverDrawn) {
  std::vector<float> logits(70, 0.0f);
  logits[69] = 50;
  logits[3] = 40;
  std::vector<uint64_t> mapped = AllMapped(70);
  mapped[1] &= ~(uint64_t{1} << 5);  // id 69
  EXPECT_EQ(SampleOne(logits, {}, mapped).token_id, 3);
  const std::vector<int32_t> banned = {3};
  SamplingRow row;
  row.banned_ids = banned;
  EXPECT_EQ(SampleOne(logits, row, mapped).token_id, 0);
  row.temperature = 2;
  EXPECT_EQ(SampleOne(logits, row, mapped).token_id % 69, SampleOne(logits, row, mapped).token_id);
}

TEST_P(SamplingTest, BiasIsAddedBeforeTheRepetitionPenalty) {
  const std::vector<TokenBias> biases = {{0, 4.0f}};
  const std::vector<TokenCount> counts = {{0, 0, true}};
  SamplingRow row;
  row.biases = biases;
  row.counts = counts;
  row.repetition_penalty = 2;
  // (-1 + 4) / 2 = 1.5; the penalty first would give -1 * 2 + 4 = 2.
  EXPECT_EQ(SampleOne({-1, 1.75f}, row).token_id, 1);
  EXPECT_EQ(SampleOne({-1, 1.25f}, row).token_id, 0);
}

TEST_P(SamplingTest, RepetitionPenaltyDividesPositiveAndMultipliesNegativeLogits) {
  const std::vector<TokenCount> counts = {{0, 0, true}, {1, 3, false}, {2, 0, false}};
  SamplingRow row;
  row.counts = counts;
  row.repetition_penalty = 4;
  EXPECT_EQ(SampleOne({8, 8, 1.9f, 1.8f}, row).token_id, 0);   // 2, 2, 1.9, 1.8
  EXPECT_EQ(SampleOne({8, 8, 2.1f, 1.8f}, row).token_id, 2);   // an id that never occurred
  EXPECT_EQ(SampleOne({-1, -1, -9, -3.9f}, row).token_id, 3);  // -4, -4, -9, -3.9
  EXPECT_EQ(SampleOne({-1, -1, -9, -4.1f}, row).token_id, 0);
}

TEST_P(SamplingTest, PresenceAndFrequencyCountTheOutputOnly) {
  const std::vector<TokenCount> counts = {{0, 0, true}, {1, 3, true}};
  SamplingRow row;
  row.counts = counts;
  row.presence_penalty = 1;
  row.frequency_penalty = 0.5f;
  EXPECT_EQ(SampleOne({5, 9, 4.9f}, row).token_id, 1);  // 5, 9 - 1 - 1.5 = 6.5
  EXPECT_EQ(SampleOne({5, 7, 4.9f}, row).token_id, 0);  // 5, 4.5
  EXPECT_EQ(SampleOne({4, 7, 4.4f}, row).token_id, 1);  // 4.5 above 4.4
}

TEST_P(SamplingTest, TopKKeepsExactlyKAndLowerIdsWinTies) {
  SamplingRow row = Hot();
  row.top_k = 3;
  EXPECT_EQ(Drawn({1, 2, 1, 2, 1, 1}, row), (std::set<int32_t>{0, 1, 3}));
  row.top_k = 1;
  EXPECT_EQ(Drawn({1, 2, 1, 2, 1, 1}, row, 50), (std::set<int32_t>{1}));
  row.top_k = 100;
  EXPECT_EQ(Drawn({1, 2, 1, 2}, row).size(), 4u);
  // Far apart and beyond the bucketed range.
  row.top_k = 2;
  row.temperature = 100;
  EXPECT_EQ(Drawn({0, -50, -49, -60}, row), (std::set<int32_t>{0, 2}));
}

TEST_P(SamplingTest, TopPKeepsTheSmallestSetThatReachesP) {
  // Probabilities 0.4, 0.3, 0.2, 0.1.
  const std::vector<float> logits = {std::log(0.2f), std::log(0.4f), std::log(0.1f),
                                     std::log(0.3f)};
  SamplingRow row = Hot();
  row.top_p = 0.65f;
  EXPECT_EQ(Drawn(logits, row), (std::set<int32_t>{1, 3}));
  row.top_p = 0.75f;
  EXPECT_EQ(Drawn(logits, row), (std::set<int32_t>{0, 1, 3}));
  row.top_p = 0.39f;
  EXPECT_EQ(Drawn(logits, row), (std::set<int32_t>{1}));
  row.top_p = 0;
  EXPECT_EQ(Drawn(logits, row, 50), (std::set<int32_t>{1}));
}

TEST_P(SamplingTest, TopPBreaksTiesByIdAndWorksOnTheSurvivorsOfTopK) {
  SamplingRow row = Hot();
  row.top_p = 0.45f;
  EXPECT_EQ(Drawn({0, 0, 0, 0}, row), (std::set<int32_t>{0, 1}));
  // Of the four equal ones top-k leaves two; half of their mass is one id.
  row.top_k = 2;
  row.top_p = 0.5f;
  EXPECT_EQ(Drawn({0, 0, 0, 0}, row), (std::set<int32_t>{0}));
}

TEST_P(SamplingTest, TopPIsTakenAfterTemperature) {
  const std::vector<float> logits = {2, 1, 0};  // at T = 1: 0.665, 0.245, 0.090
  SamplingRow row = Hot();
  row.top_p = 0.6f;
  EXPECT_EQ(Drawn(logits, row), (std::set<int32_t>{0}));
  row.temperature = 4;  // 0.419, 0.326, 0.254
  EXPECT_EQ(Drawn(logits, row), (std::set<int32_t>{0, 1}));
}

TEST_P(SamplingTest, MinPComparesWithTheLargestProbability) {
  const std::vector<float> logits = {0, std::log(0.5f), std::log(0.2f), std::log(0.05f)};
  SamplingRow row = Hot();
  row.min_p = 0.19f;
  EXPECT_EQ(Drawn(logits, row), (std::set<int32_t>{0, 1, 2}));
  row.min_p = 1;
  EXPECT_EQ(Drawn(logits, row), (std::set<int32_t>{0}));
}

// Chi-square with 7 degrees of freedom: above 24.3 by chance once in a thousand; seeds are fixed.
TEST_P(SamplingTest, DrawsFollowTheDistribution) {
  const std::vector<float> logits = {0.3f, 1.2f, -0.5f, 2.0f, 0.0f, 1.0f, -1.5f, 0.7f};
  const int draws = slow() ? 4000 : 40000;
  for (const float temperature : {0.7f, 1.0f, 1.9f}) {
    for (const uint64_t seed : {1ULL, 99ULL}) {
      SamplingRow row = Hot(temperature);
      row.key.seed = seed;
      std::map<int32_t, int> counts = Histogram(logits, row, draws);
      double total = 0, chi_square = 0;
      for (const float logit : logits) total += std::exp(logit / temperature);
      for (size_t id = 0; id < logits.size(); ++id) {
        const double expected = draws * std::exp(logits[id] / temperature) / total;
        const double difference = counts[static_cast<int32_t>(id)] - expected;
        chi_square += difference * difference / expected;
      }
      EXPECT_LT(chi_square, 24.3) << "temperature " << temperature << " seed " << seed;
    }
  }
}

// The scan skips ids that cannot win: the result must be that of looking at all of them.
TEST_P(SamplingTest, DrawIsTheArgmaxOfLogitPlusGumbelOverTheWholeVocabulary) {
  for (const float spread : {0.0f, 0.5f, 3.0f, 12.0f}) {
    const std::vector<float> logits = RandomTensors(40).Normal(1003, spread);
    const float max = *std::max_element(logits.begin(), logits.end());
    for (int index = 0; index < (slow() ? 10 : 200); ++index) {
      SamplingRow row = Hot(1.3f);
      row.output_index = index;
      row.key = {uint64_t{0xfeedULL} << 40 | 5, 3};
      int32_t expected = -1;
      double best = -std::numeric_limits<double>::infinity();
      for (int32_t id = 0; id < 1003; ++id) {
        const double u =
            PhiloxUniform(row.key, static_cast<uint32_t>(index), static_cast<uint32_t>(id));
        const double value = (logits[id] - max) / 1.3f - std::log(-std::log(u));
        if (value > best) best = value, expected = id;
      }
      ASSERT_EQ(SampleOne(logits, row).token_id, expected) << "spread " << spread;
    }
  }
}

TEST_P(SamplingTest, SeedChoiceAndIndexEachChangeTheDraw) {
  const std::vector<float> logits(5000, 0.0f);
  const SamplingRow first = Hot();
  SamplingRow seed = first, choice = first, index = first;
  seed.key.seed += uint64_t{1} << 32;
  choice.key.choice = 1;
  index.output_index = 1;
  const std::vector<SampledToken> out = Sample(logits, {first, seed, choice, index, first});
  EXPECT_EQ(out[0].token_id, out[4].token_id);
  const std::set<int32_t> ids = {out[0].token_id, out[1].token_id, out[2].token_id,
                                 out[3].token_id};
  EXPECT_EQ(ids.size(), 4u);
}

TEST_P(SamplingTest, LogprobsAreOfTheRawLogits) {
  const int64_t vocab = 1000;
  const std::vector<float> logits = RandomTensors(41).Normal(vocab, 4);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
  const std::vector<int32_t> banned = {7};
  const std::vector<TokenBias> biases = {{11, 100.0f}};
  SamplingRow row = Hot(0.5f);
  row.banned_ids = banned;
  row.biases = biases;
  row.logprob = true;
  row.top_logprobs = 20;
  const SampledToken token = SampleOne(logits, row);
  EXPECT_EQ(token.token_id, 11);
  const double expected = static_cast<double>(logits[11]) - std::log(sum);
  EXPECT_NEAR(token.logprob, expected, LogprobError(expected));
  std::vector<int32_t> order(vocab);
  for (int32_t id = 0; id < vocab; ++id) order[id] = id;
  std::sort(order.begin(), order.end(),
            [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  ASSERT_EQ(token.top_count, 20);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(token.top[i].token_id, order[i]);
    const double value = static_cast<double>(logits[order[i]]) - std::log(sum);
    EXPECT_NEAR(token.top[i].logprob, value, LogprobError(value));
  }
}

TEST_P(SamplingTest, TopLogprobsBreakTiesByIdAndFitSmallVocabularies) {
  SamplingRow row;
  row.top_logprobs = 5;
  const SampledToken token = SampleOne({1, 3, 3, -kInfinity}, row);
  ASSERT_EQ(token.top_count, 4);
  EXPECT_EQ(token.top[0].token_id, 1);
  EXPECT_EQ(token.top[1].token_id, 2);
  EXPECT_EQ(token.top[2].token_id, 0);
  EXPECT_EQ(token.top[3].logprob, -kInfinity);
}

TEST_P(SamplingTest, ScoredTokenIsScoredAndNothingIsDrawn) {
  SamplingRow row = Hot();
  row.scored_token = 2;
  const SampledToken token = SampleOne({0, 0, 0, 0}, row);
  EXPECT_EQ(token.token_id, 2);
  EXPECT_NEAR(token.logprob, -std::log(4.0), LogprobError(-std::log(4.0)));
}

TEST_P(SamplingTest, LogitsThatAreNotFiniteAreReported) {
  const SamplingRow row = Hot();
  EXPECT_TRUE(SampleOne({0, std::nanf(""), 1}, row).not_finite);
  EXPECT_TRUE(SampleOne({0, -std::nanf(""), 1}, row).not_finite);
  EXPECT_TRUE(SampleOne({0, kInfinity, 1}, row).not_finite);
  EXPECT_TRUE(SampleOne({-kInfinity, -kInfinity}, row).not_finite);
  EXPECT_TRUE(SampleOne({-kInfinity, 3, -kInfinity}, row, {0b101}).not_finite);
  EXPECT_FALSE(SampleOne({-kInfinity, 3}, row).not_finite);
  EXPECT_EQ(SampleOne({-kInfinity, 3}, row).token_id, 1);
}

TEST_P(SamplingTest, TinyTemperatureIsGreedyAndDoesNotOverflow) {
  SamplingRow row = Hot(1e-30f);
  EXPECT_EQ(SampleOne({80, 90, -90}, row).token_id, 1);
  row.top_p = 0.5f;
  row.top_k = 2;
  EXPECT_EQ(SampleOne({80, 90, -90}, row).token_id, 1);
}

// A GPU's exp may differ in its last place, and with it a log-probability, but no token here.
TEST_P(SamplingTest, AgreesWithPlainAndDoesNotDependOnTheOtherRows) {
  const std::unique_ptr<Backend> plain = MakePlain();
  const std::vector<float> logits = RandomTensors(42).Normal(3 * 32064, 2.5f);
  const std::vector<uint64_t> mapped = AllMapped(32064);
  std::vector<SamplingRow> rows;
  for (int i = 0; i < (slow() ? 9 : 60); ++i) {
    SamplingRow row = Hot(0.3f + 0.1f * static_cast<float>(i % 20));
    row.logit_row = i % 3;
    row.output_index = i;
    row.top_k = i % 4 == 1 ? 40 : 0;
    row.top_p = i % 3 == 1 ? 0.9f : 1;
    row.min_p = i % 5 == 1 ? 0.02f : 0;
    row.logprob = true;
    row.top_logprobs = i % 21;
    rows.push_back(row);
  }
  const std::vector<SampledToken> together = RunSample(*backend, logits, 3, {rows, mapped});
  const std::vector<SampledToken> theirs = RunSample(*plain, logits, 3, {rows, mapped});
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(together[i].token_id, theirs[i].token_id) << i;
    const double error = GetParam().cpu() ? 0 : 2 * LogprobError(theirs[i].logprob);
    EXPECT_NEAR(together[i].logprob, theirs[i].logprob, error) << i;
    const SampledToken alone = RunSample(*backend, logits, 3, {{&rows[i], 1}, mapped})[0];
    EXPECT_EQ(together[i].token_id, alone.token_id) << i;
    EXPECT_EQ(together[i].logprob, alone.logprob) << i;
  }
}

TUPPENCE_FOR_EACH_BACKEND(SamplingTest);

TEST(PhiloxTest, MatchesTheKnownAnswersOfRandom123) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({~0u, ~0u, ~0u, ~0u}, ~uint64_t{0}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(PhiloxTest, UniformIsNeverZeroOrOne) {
  float least = 1, most = 0;
  for (uint32_t id = 0; id < 200000; ++id) {
    const float u = PhiloxUniform({7, 0}, 0, id);
    least = std::min(least, u);
    most = std::max(most, u);
  }
  EXPECT_GT(least, 0);
  EXPECT_LT(most, 1);
}

}  // namespace
}  // namespace tuppence::testing
