// The shares against the definition: the Shapley value by every subset of the players.
#include "scheduler/step_cost_model.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/scheduler/step_works.h"

namespace tuppence {
namespace {

// A machine of 20 GB/s and 0.5 TFLOPS with a model of 3.8 billion int8 weights.
constexpr StepCostCoefficients kMachine = {.launch_ns = 60'000,
                                           .weights_ns = 190'000'000,
                                           .token_ns = 15'000'000,
                                           .attention_ns = 790,
                                           .kv_read_ns = 10'000};

StepWork Chunk(int64_t first, int64_t tokens) {
  return WorkOf(first, first + tokens, Phase::kPrefill);
}

double StepNs(const StepCostCoefficients& c, const StepWork& work) {
  const double attention_ns = c.attention_ns * static_cast<double>(work.query_keys) +
                              c.kv_read_ns * static_cast<double>(work.kv_read_tokens);
  const double arithmetic_ns = c.token_ns * static_cast<double>(work.tokens) + attention_ns;
  return c.launch_ns + std::max(arithmetic_ns, c.weights_ns + attention_ns);
}

// Sum over subsets S without i of |S|! (n - |S| - 1)! / n! * (t(S with i) - t(S)), t(nobody) = 0.
std::vector<double> Shapley(const StepCostCoefficients& c, const std::vector<StepWork>& works) {
  const int players = static_cast<int>(works.size());
  std::vector<double> times(size_t{1} << players, 0.0);
  for (size_t subset = 1; subset < times.size(); ++subset) {
    StepWork all;
    for (int i = 0; i < players; ++i) {
      if (subset >> i & 1) all.Add(works[i]);
    }
    times[subset] = StepNs(c, all);
  }
  std::vector<double> values(players, 0.0);
  for (int i = 0; i < players; ++i) {
    for (size_t subset = 0; subset < times.size(); ++subset) {
      if (subset >> i & 1) continue;
      const int others = std::popcount(subset);
      const double weight = std::exp(std::lgamma(others + 1) + std::lgamma(players - others) -
                                     std::lgamma(players + 1));
      values[i] += weight * (times[subset | size_t{1} << i] - times[subset]);
    }
  }
  return values;
}

std::vector<double> Shares(const StepCostCoefficients& c, const std::vector<StepWork>& works) {
  std::vector<StepShare> shares(works.size());
  StepCostModel(c, static_cast<int32_t>(works.size())).Divide(works, shares);
  std::vector<double> totals;
  for (const StepShare& share : shares) totals.push_back(share.shared_ns + share.own_ns);
  return totals;
}

std::vector<StepWork> RandomStep(std::mt19937_64& random, int chunks, int decodes) {
  std::vector<StepWork> works;
  for (int i = 0; i < chunks; ++i) works.push_back(Chunk(random() % 2000, 1 + random() % 512));
  for (int i = 0; i < decodes; ++i) works.push_back(DecodeAt(random() % 4000));
  std::shuffle(works.begin(), works.end(), random);
  return works;
}

// Mean of |share - exact| over many steps, in parts of the mean charge.
double MeanDeviation(int chunks_min, int chunks_max) {
  std::mt19937_64 random(11);
  double deviation = 0;
  double charge = 0;
  for (int step = 0; step < 400; ++step) {
    const int chunks = chunks_min + static_cast<int>(random() % (chunks_max - chunks_min + 1));
    const int decodes = static_cast<int>(random() % (9 - chunks));
    std::vector<StepWork> works = RandomStep(random, chunks, chunks + decodes == 0 ? 1 : decodes);
    const std::vector<double> exact = Shapley(kMachine, works);
    std::vector<double> shares = Shares(kMachine, works);
    const double step_ns = std::accumulate(exact.begin(), exact.end(), 0.0);
    const double shares_ns = std::accumulate(shares.begin(), shares.end(), 0.0);
    for (size_t i = 0; i < works.size(); ++i) {
      deviation += std::abs(shares[i] * step_ns / shares_ns - exact[i]) / works.size();
      charge += exact[i] / works.size();
    }
  }
  return deviation / charge;
}

TEST(StepCostModelTest, SharesAreShapleyValuesWithUpToFourPrefillChunks) {
  const double deviation = MeanDeviation(0, 4);
  std::printf("up to four chunks: %.4f %% of the mean charge\n", 100 * deviation);
  EXPECT_LE(deviation, 0.001) << "of the mean charge";
}

TEST(StepCostModelTest, AndNearlySoWithEight) {
  const double deviation = MeanDeviation(5, 8);
  std::printf("five to eight chunks: %.3f %% of the mean charge\n", 100 * deviation);
  EXPECT_LE(deviation, 0.02) << "of the mean charge";
}

TEST(StepCostModelTest, WithUpToFivePlayersTheyAreExact) {
  std::mt19937_64 random(3);
  for (int step = 0; step < 200; ++step) {
    const int chunks = static_cast<int>(random() % 5);
    const std::vector<StepWork> works =
        RandomStep(random, chunks, static_cast<int>(random() % (5 - chunks)) + 1);
    const std::vector<double> exact = Shapley(kMachine, works);
    const std::vector<double> shares = Shares(kMachine, works);
    for (size_t i = 0; i < works.size(); ++i) EXPECT_NEAR(shares[i], exact[i], 1e-9 * exact[i]);
  }
}

// With one chunk among decodes that are all alike a subset is no more than how many of them it has:
// each number from none to all is as likely before the chunk.
TEST(StepCostModelTest, AndNearlySoAmongManyDecodes) {
  double worst = 0;
  for (const int decodes : {31, 32, 40, 255}) {
    for (const int64_t tokens : {2, 5, 64, 512}) {
      const StepWork decode = {.tokens = 1};
      double chunk_ns = 0;
      for (int before = 0; before <= decodes; ++before) {
        const double without = before > 0 ? StepNs(kMachine, {.tokens = before}) : 0;
        chunk_ns += (StepNs(kMachine, {.tokens = before + tokens}) - without) / (decodes + 1);
      }
      const double all_ns = StepNs(kMachine, {.tokens = decodes + tokens});
      std::vector<StepWork> works(decodes, decode);
      works.push_back({.tokens = tokens});
      const std::vector<double> shares = Shares(kMachine, works);
      const double decode_ns = (all_ns - chunk_ns) / decodes;
      const double mean_ns = all_ns / (decodes + 1);
      const double off_ns =
          decodes * std::abs(shares[0] - decode_ns) + std::abs(shares.back() - chunk_ns);
      worst = std::max(worst, off_ns / (decodes + 1) / mean_ns);
    }
  }
  std::printf("one chunk among many decodes: %.4f %% of the mean charge\n", 100 * worst);
  EXPECT_LE(worst, 0.001);
}

TEST(StepCostModelTest, DecodesShareTheWeightsAndPayForTheirKeys) {
  const std::vector<StepWork> works = {DecodeAt(100), DecodeAt(3000), DecodeAt(500)};
  std::vector<StepShare> shares(3);
  const double step_ns = StepCostModel(kMachine, 3).Divide(works, shares);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_DOUBLE_EQ(shares[i].shared_ns, (kMachine.launch_ns + kMachine.weights_ns) / 3);
    EXPECT_DOUBLE_EQ(shares[i].own_ns, (kMachine.attention_ns + kMachine.kv_read_ns) *
                                           static_cast<double>(works[i].kv_read_tokens));
  }
  EXPECT_DOUBLE_EQ(step_ns, StepNs(kMachine, {3, 3603, 3603}));
}

TEST(StepCostModelTest, NobodyPaysForArithmeticThatHidesBehindTheWeights) {
  // 12 tokens of 15 ms stay below 190 ms of reading, 13 do not.
  const std::vector<StepWork> below = {Chunk(0, 5), Chunk(0, 6), DecodeAt(40)};
  const std::vector<double> shares = Shares(kMachine, below);
  const double shared_ns = (kMachine.launch_ns + kMachine.weights_ns) / 3;
  EXPECT_DOUBLE_EQ(shares[2], shared_ns + 41 * (kMachine.attention_ns + kMachine.kv_read_ns));
  const std::vector<StepWork> above = {Chunk(0, 6), Chunk(0, 6), DecodeAt(40)};
  EXPECT_GT(Shares(kMachine, above)[0] - shared_ns, 1e6);
}

TEST(StepCostModelTest, EqualWorkHasEqualSharesAndNoOrderShows) {
  std::mt19937_64 random(5);
  for (int step = 0; step < 100; ++step) {
    std::vector<StepWork> works = RandomStep(random, 6, 20);
    for (int i = 0; i < 6; ++i) works.push_back(works[i]);
    std::vector<double> shares = Shares(kMachine, works);
    for (int i = 0; i < 6; ++i) EXPECT_EQ(shares[i], shares[26 + i]);
    std::vector<size_t> order(works.size());
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    std::vector<StepWork> shuffled;
    for (const size_t i : order) shuffled.push_back(works[i]);
    const std::vector<double> again = Shares(kMachine, shuffled);
    for (size_t i = 0; i < order.size(); ++i) EXPECT_EQ(again[i], shares[order[i]]);
  }
}

TEST(StepCostModelTest, ACoRunnerNeverRaisesAnyonesShareOfLaunchAndWeights) {
  std::mt19937_64 random(6);
  std::vector<StepWork> works = {Chunk(0, 300)};
  double before = kMachine.launch_ns + kMachine.weights_ns;
  for (int players = 2; players <= 40; ++players) {
    works.push_back(random() % 3 == 0 ? Chunk(0, 1 + random() % 500) : DecodeAt(random() % 4000));
    std::vector<StepShare> shares(works.size());
    StepCostModel(kMachine, players).Divide(works, shares);
    for (const StepShare& share : shares) EXPECT_LT(share.shared_ns, before);
    before = shares[0].shared_ns;
  }
}

TEST(StepCostModelTest, NobodyPaysMoreThanAlone) {
  std::mt19937_64 random(8);
  for (int step = 0; step < 500; ++step) {
    const int chunks = static_cast<int>(random() % 5);
    const std::vector<StepWork> works =
        RandomStep(random, chunks, 1 + static_cast<int>(random() % 60));
    std::vector<double> shares = Shares(kMachine, works);
    StepWork all;
    for (const StepWork& work : works) all.Add(work);
    const double scale = StepNs(kMachine, all) / std::accumulate(shares.begin(), shares.end(), 0.0);
    for (size_t i = 0; i < works.size(); ++i) {
      EXPECT_LE(shares[i] * scale, StepNs(kMachine, works[i]) * 1.001);
      EXPECT_GE(shares[i], 0);
    }
  }
}

TEST(StepCostModelTest, InTheWorkedStepTheChunkPays71PercentWhereTokensSay94AndHeads3) {
  // 31 decodes at 350 tokens and a 512-token chunk, on a T4 that reads 240 GB/s and computes
  // 25 TFLOPS: 7.6 GB of weights, 393 kB of keys and values a token.
  const StepCostCoefficients t4 = {.launch_ns = 100'000,
                                   .weights_ns = 32'000'000,
                                   .token_ns = 300'000,
                                   .attention_ns = 16,
                                   .kv_read_ns = 1'600};
  std::vector<StepWork> works = {Chunk(0, 512)};
  for (int i = 0; i < 31; ++i) works.push_back(DecodeAt(350));
  StepWork all;
  for (const StepWork& work : works) all.Add(work);
  const std::vector<double> shares = Shares(t4, works);
  const double sum_ns = std::accumulate(shares.begin(), shares.end(), 0.0);
  EXPECT_NEAR(sum_ns, StepNs(t4, all), 1e-6 * sum_ns);
  EXPECT_NEAR(shares[0] / sum_ns, 0.71, 0.005);
  EXPECT_NEAR(512.0 / static_cast<double>(all.tokens), 0.94, 0.005);
  EXPECT_NEAR(1.0 / static_cast<double>(works.size()), 0.03, 0.005);
}

TEST(StepCostModelTest, AModelOfZerosGivesZeroShares) {
  const StepCostCoefficients nothing = {0, 0, 0, 0, 0};
  for (const double share : Shares(nothing, {DecodeAt(5), Chunk(0, 9)})) EXPECT_EQ(share, 0);
}

TEST(StepCostModelTest, ARequestAloneCostsWhatItsStepsDo) {
  const StepCostCoefficients coefficients = {
      .launch_ns = 11, .weights_ns = 70, .token_ns = 13, .attention_ns = 3, .kv_read_ns = 2};
  const StepCostModel model(coefficients, 0);
  for (const int64_t choices : {1, 3, 8}) {
    for (const int64_t max_tokens : {1, 2, 57}) {
      double steps_ns = 0;
      for (int64_t first = 0; first < 100; first += 32) {
        steps_ns +=
            model.StepNs(WorkOf(first, std::min<int64_t>(100, first + 32), Phase::kPrefill));
      }
      for (int64_t position = 100; position < 100 + max_tokens - 1; ++position) {
        StepWork work;
        for (int64_t i = 0; i < choices; ++i) {
          work.Add(WorkOf(position, position + 1, Phase::kDecode));
        }
        steps_ns += model.StepNs(work);
      }
      EXPECT_NEAR(AloneNs(coefficients, 100, max_tokens, choices, 32), steps_ns, 1e-6);
    }
  }
}

}  // namespace
}  // namespace tuppence
