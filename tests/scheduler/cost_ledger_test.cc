#include "scheduler/cost_ledger.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace tuppence {
namespace {

StepWork Decode(int64_t position) {
  return {.tokens = 1, .query_keys = position + 1, .kv_read_tokens = position + 1};
}

StepWork Prefill(int64_t tokens) {
  return {.tokens = tokens, .query_keys = tokens * (tokens + 1) / 2, .kv_read_tokens = tokens};
}

class CostLedgerTest : public ::testing::Test {
 protected:
  static constexpr int64_t kStart = 1'000;
  static LedgerOptions Options() {
    return {.start_ns = kStart,
            .utc_start_ns = kStart,
            .rate_card = RateCard{"card", 500'000},
            .players_max = 64};
  }
  void Cut(CostLedger::Account account, int64_t now_ns) { ledger_.Cut(account, now_ns, now_ns); }

  CostLedger ledger_{Options()};
};

TEST_F(CostLedgerTest, AccountsAddUpToTheElapsedTime) {
  Cut(CostLedger::Account::kStartup, 1'100);
  Cut(CostLedger::Account::kIdle, 1'350);
  Charges charges;
  const StepPlayer players[] = {{&charges, 1, Prefill(10), {}}};
  ledger_.ChargeStep(players, 2'000);
  Cut(CostLedger::Account::kOverhead, 2'007);
  Cut(CostLedger::Account::kDrain, 2'010);
  const AccountTotals& totals = ledger_.totals();
  EXPECT_EQ(totals.startup_ns, 100);
  EXPECT_EQ(totals.idle_ns, 250);
  EXPECT_EQ(totals.request_ns, 650);
  EXPECT_EQ(totals.overhead_ns, 7);
  EXPECT_EQ(totals.drain_ns, 3);
  EXPECT_EQ(totals.sum_ns(), 1'010);
}

TEST_F(CostLedgerTest, ARequestAlonePaysTheWholeStep) {
  Charges charges;
  const StepPlayer players[] = {{&charges, 1, {}, Decode(100)}};
  ledger_.ChargeStep(players, kStart + 12'345);
  EXPECT_EQ(charges.machine_ns, 12'345);
  EXPECT_EQ(charges.decode_ns, 12'345);
  EXPECT_EQ(charges.shared_ns + charges.own_ns, 12'345);
  EXPECT_GT(charges.shared_ns, charges.own_ns) << "weights and launch are most of a lone decode";
}

TEST_F(CostLedgerTest, ChargesAddUpToTheStepTimeWhateverHappens) {
  std::mt19937_64 random(7);
  std::vector<Charges> requests(40);
  std::vector<Charges> before;
  int64_t now_ns = kStart;
  for (int step = 0; step < 5'000; ++step) {
    before = requests;
    std::vector<StepPlayer> players;
    for (size_t i = 0; i < requests.size(); ++i) {
      if (random() % 3 == 0)
        players.push_back({&requests[i], static_cast<int64_t>(i), {}, Decode(random() % 4'000)});
    }
    if (random() % 4 == 0 && !players.empty()) {
      players.back().prefill = Prefill(1 + random() % 700);
    }
    if (random() % 4 == 0) players.push_back({nullptr, -1, Prefill(1 + random() % 500), {}});
    if (players.empty()) continue;
    now_ns += static_cast<int64_t>(random() % (step % 2 == 0 ? 10 : 20'000'000));
    const int64_t overhead_ns = ledger_.totals().overhead_ns;
    const StepCharge charge = ledger_.ChargeStep(players, now_ns);
    int64_t step_ns = ledger_.totals().overhead_ns - overhead_ns;
    for (size_t i = 0; i < requests.size(); ++i) {
      const int64_t more_ns = requests[i].machine_ns - before[i].machine_ns;
      const bool plays = std::any_of(players.begin(), players.end(), [&](const StepPlayer& p) {
        return p.charges == &requests[i];
      });
      ASSERT_GE(more_ns, 0) << "a charge never goes back";
      ASSERT_TRUE(plays || more_ns == 0) << "who was not there pays nothing";
      step_ns += more_ns;
    }
    ASSERT_EQ(step_ns, charge.step_ns);
    ASSERT_LE(charge.shared_ns, charge.step_ns);
  }
  int64_t charged_ns = ledger_.totals().overhead_ns;
  for (const Charges& charges : requests) {
    EXPECT_GE(charges.machine_ns, 0);
    EXPECT_EQ(charges.machine_ns, charges.shared_ns + charges.own_ns);
    EXPECT_LT(std::abs(charges.carry_ns), 2) << "never more than 2 ns off over its whole life";
    charged_ns += charges.machine_ns;
  }
  EXPECT_EQ(charged_ns, now_ns - kStart);
  EXPECT_EQ(ledger_.totals().sum_ns(), now_ns - kStart);
}

TEST_F(CostLedgerTest, EqualWorkInEqualStepsIsChargedEqually) {
  std::vector<Charges> requests(7);
  int64_t now_ns = kStart;
  for (int step = 0; step < 1'000; ++step) {
    std::vector<StepPlayer> players;
    for (size_t i = 0; i < requests.size(); ++i) {
      players.push_back({&requests[i], static_cast<int64_t>(i), {}, Decode(step)});
    }
    now_ns += 1'000'003 + step;
    ledger_.ChargeStep(players, now_ns);
  }
  const auto [least, most] = std::minmax_element(
      requests.begin(), requests.end(),
      [](const Charges& a, const Charges& b) { return a.machine_ns < b.machine_ns; });
  EXPECT_LE(most->machine_ns - least->machine_ns, 1);
}

// However small the modelled times are: what the measured step is divided by are their ratios.
TEST_F(CostLedgerTest, CarriesStayFractionsOfANanosecond) {
  for (const double nanosecond : {1e-6, 1e-3, 1.0, 1e3}) {
    CostLedger ledger(Options());
    ledger.SetCoefficients({.launch_ns = nanosecond,
                            .weights_ns = nanosecond,
                            .token_ns = nanosecond,
                            .attention_ns = 0,
                            .kv_read_ns = 0.01 * nanosecond});
    std::vector<Charges> charges(64);
    std::vector<StepPlayer> players;
    for (int64_t i = 0; i < 64; ++i) players.push_back({&charges[i], i, {}, Decode(10 * i)});
    for (int64_t step = 1; step <= 500; ++step) ledger.ChargeStep(players, kStart + 60'001 * step);
    for (const Charges& charge : charges) EXPECT_LT(std::abs(charge.carry_ns), 1.0);
  }
}

TEST_F(CostLedgerTest, TheOrderOfThePlayersChangesNothing) {
  CostLedger other(Options());
  std::vector<Charges> forward(9);
  std::vector<Charges> backward(9);
  for (int step = 1; step <= 200; ++step) {
    std::vector<StepPlayer> players;
    for (int64_t i = 0; i < 9; ++i) {
      players.push_back({&forward[i], i, i == 2 ? Prefill(300) : StepWork(), Decode(i * step)});
    }
    ledger_.ChargeStep(players, kStart + step * 1'234'567);
    for (StepPlayer& player : players) player.charges = &backward[player.order];
    std::reverse(players.begin(), players.end());
    other.ChargeStep(players, kStart + step * 1'234'567);
  }
  for (int i = 0; i < 9; ++i) EXPECT_EQ(forward[i].machine_ns, backward[i].machine_ns);
}

TEST_F(CostLedgerTest, ALongPromptPaysForItsArithmetic) {
  Charges prompt;
  std::vector<Charges> decodes(31);
  std::vector<StepPlayer> players = {{&prompt, 0, Prefill(512), {}}};
  for (size_t i = 0; i < decodes.size(); ++i) {
    players.push_back({&decodes[i], static_cast<int64_t>(i) + 1, {}, Decode(500)});
  }
  ledger_.ChargeStep(players, kStart + 100'000'000);
  EXPECT_GT(prompt.machine_ns, 60'000'000);
  EXPECT_LT(prompt.machine_ns, 99'000'000) << "the others had the weights read for them too";
  EXPECT_EQ(prompt.prefill_ns, prompt.machine_ns);
}

TEST_F(CostLedgerTest, AModelOfTinyTimesDividesAStepAsOneOfLargeTimesDoes) {
  for (const double token_ns : {1e6, 1.0, 1e-4, 1e-12, 1e-90}) {
    LedgerOptions options = Options();
    options.coefficients = {
        .launch_ns = 0, .weights_ns = 0, .token_ns = token_ns, .attention_ns = 0, .kv_read_ns = 0};
    CostLedger ledger(options);
    Charges prompt;
    std::vector<Charges> decodes(60);
    std::vector<StepPlayer> players = {{&prompt, 0, Prefill(20), {}}};
    for (size_t i = 0; i < decodes.size(); ++i) {
      players.push_back({&decodes[i], static_cast<int64_t>(i) + 1, {}, Decode(500)});
    }
    ledger.ChargeStep(players, kStart + 80'000'000'000);
    EXPECT_NEAR(prompt.machine_ns, 20'000'000'000, 10) << token_ns;
    for (const Charges& decode : decodes) EXPECT_NEAR(decode.machine_ns, 1'000'000'000, 10);
  }
}

TEST_F(CostLedgerTest, MoneyIsTimeAtTheRateCardRoundedToNearest) {
  EXPECT_EQ(NanoUsd({"card", 500'000}, 3'600'000'000'000), 500'000'000) << "an hour: half a dollar";
  EXPECT_EQ(NanoUsd({"card", 3'600'000'000}, 1), 1);
  EXPECT_EQ(NanoUsd({"card", 1'000'000}, 1'800), 1) << "halves up";
  EXPECT_EQ(NanoUsd({"card", 1'000'000}, 1'799), 0);
  EXPECT_EQ(NanoUsd({"free", 0}, 1'000'000'000), 0);
  Charges charges;
  charges.machine_ns = 7'200'000'000'000;
  EXPECT_EQ(ledger_.CostOf(charges).cost_nanousd, 1'000'000'000);
  const CostLedger unpriced({.rate_card = RateCard()});
  EXPECT_FALSE(unpriced.CostOf(charges).has_rate);
  EXPECT_EQ(unpriced.CostOf(charges).machine_ns, 7'200'000'000'000);
}

}  // namespace
}  // namespace tuppence
