// Periods: cuts at the minute, the quarter-hour and a new rate card; whole and without gaps under
// every clock on the wall.
#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "scheduler/cost_ledger.h"
#include "tests/scheduler/step_works.h"
#include "tests/support/fake_clock.h"

namespace tuppence {
namespace {

constexpr int64_t kMinute = 60 * kSecondNs;
constexpr int64_t kNoon = int64_t{1'790'000'000} / 900 * kQuarterHourNs;  // a quarter-hour

// A ledger with its two clocks; periods gather in `periods`.
class Books {
 public:
  explicit Books(int64_t utc_start_ns = kNoon + 100 * kSecondNs, RateCard card = {"a", 500'000})
      : utc_offset_ns(utc_start_ns - now_ns),
        ledger({.start_ns = now_ns,
                .utc_start_ns = utc_start_ns,
                .rate_card = std::move(card),
                .players_max = 64}) {}

  int64_t utc_ns() const { return now_ns + utc_offset_ns; }
  void Idle(int64_t ns) {
    now_ns += ns;
    ledger.Cut(CostLedger::Account::kIdle, now_ns, utc_ns());
    End();
  }
  void Step(Charges* charges, int64_t ns) {
    now_ns += ns;
    const StepPlayer players[] = {{charges, 1, {}, DecodeAt(10)}};
    ledger.ChargeStep(players, now_ns);
    End();
  }
  void End() {
    ledger.ClosePeriodIfDue(utc_ns());
    ledger.TakePeriods(&periods);
  }
  void CloseAll() {
    ledger.ClosePeriod(utc_ns());
    ledger.TakePeriods(&periods);
  }
  // Nothing between, nothing twice, each whole.
  void ExpectWhole() const {
    int64_t end_ns = start_ns;
    for (size_t i = 0; i < periods.size(); ++i) {
      const Period& period = periods[i];
      EXPECT_EQ(period.number, static_cast<int64_t>(i));
      EXPECT_EQ(period.start_ns, end_ns);
      EXPECT_GT(period.end_ns, period.start_ns);
      EXPECT_EQ(period.accounts.sum_ns(), period.end_ns - period.start_ns);
      int64_t tenants_ns = 0;
      for (const TenantCharges& tenant : period.tenants) tenants_ns += tenant.request_ns;
      EXPECT_EQ(tenants_ns, period.accounts.request_ns);
      end_ns = period.end_ns;
    }
    EXPECT_EQ(end_ns, ledger.last_cut_ns());
  }

  const int64_t start_ns = 5'000;
  int64_t now_ns = 5'000;
  int64_t utc_offset_ns;
  CostLedger ledger;
  std::vector<Period> periods;
};

TEST(PeriodsTest, CloseAfterAMinuteAtTheEndOfAnIdleWaitOrAStep) {
  Books books;
  Charges charges;
  books.ledger.Open("t", &charges);
  for (int i = 0; i < 119; ++i) books.Idle(kSecondNs / 2);
  EXPECT_TRUE(books.periods.empty());
  books.Idle(kSecondNs / 2);
  ASSERT_EQ(books.periods.size(), 1u);
  EXPECT_EQ(books.periods[0].accounts.idle_ns, kMinute);
  for (int i = 0; i < 6; ++i) books.Step(&charges, 11 * kSecondNs);
  ASSERT_EQ(books.periods.size(), 2u);
  EXPECT_EQ(books.periods[1].accounts.request_ns, 66 * kSecondNs);
  EXPECT_EQ(books.periods[1].utc_start_ns, kNoon + 160 * kSecondNs);
  books.ExpectWhole();
}

TEST(PeriodsTest, IdleTimeIsCutAtTheQuarterHourItself) {
  Books books(kNoon + 890 * kSecondNs);
  books.Idle(30 * kSecondNs);
  ASSERT_EQ(books.periods.size(), 1u);
  EXPECT_EQ(books.periods[0].end_ns - books.periods[0].start_ns, 10 * kSecondNs);
  books.Idle(40 * kSecondNs);
  ASSERT_EQ(books.periods.size(), 2u);
  EXPECT_EQ(books.periods[1].utc_start_ns, kNoon + kQuarterHourNs);
  EXPECT_EQ(books.periods[1].end_ns - books.periods[1].start_ns, 60 * kSecondNs);
}

TEST(PeriodsTest, ALongWaitGivesOnePeriodForEachQuarterHour) {
  Books books(kNoon);
  books.Idle(3 * kQuarterHourNs + 5 * kSecondNs);
  ASSERT_EQ(books.periods.size(), 3u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(books.periods[i].utc_start_ns, kNoon + i * kQuarterHourNs);
    EXPECT_EQ(books.periods[i].accounts.idle_ns, kQuarterHourNs);
  }
}

TEST(PeriodsTest, AStepAcrossTheQuarterHourBelongsWhereItBegan) {
  Books books(kNoon + 890 * kSecondNs);
  Charges charges;
  books.ledger.Open("t", &charges);
  books.Step(&charges, 25 * kSecondNs);
  ASSERT_EQ(books.periods.size(), 1u);
  EXPECT_EQ(books.periods[0].accounts.request_ns, 25 * kSecondNs);
  books.Idle(kMinute);
  ASSERT_EQ(books.periods.size(), 2u);
  EXPECT_EQ(books.periods[1].utc_start_ns, kNoon + 915 * kSecondNs);
}

TEST(PeriodsTest, EachLiesInOneQuarterHourHoweverTheWallClockJumps) {
  std::mt19937_64 random(9);
  Books books;
  Charges charges;
  books.ledger.Open("t", &charges);
  for (int i = 0; i < 3'000; ++i) {
    if (random() % 20 == 0) {
      books.utc_offset_ns += static_cast<int64_t>(random() % (7200 * kSecondNs)) - 3600 * kSecondNs;
    }
    const int64_t ns = 1 + static_cast<int64_t>(random() % (30 * kSecondNs));
    if (random() % 2 == 0) {
      books.Idle(ns);
    } else {
      books.Step(&charges, ns);
    }
  }
  books.CloseAll();
  books.ExpectWhole();
  for (const Period& period : books.periods) {
    // Time that is nobody's never reaches beyond the quarter-hour; a step may.
    const int64_t into_ns = period.utc_start_ns % kQuarterHourNs;
    if (period.accounts.request_ns == 0) {
      EXPECT_LE(into_ns + period.end_ns - period.start_ns, kQuarterHourNs);
    }
  }
}

TEST(PeriodsTest, ANewRateCardBeginsAPeriodAndEachNanosecondKeepsItsPrice) {
  Books books;
  Charges charges;
  books.ledger.Open("t", &charges);
  books.Step(&charges, 7 * kSecondNs + 1);
  books.ledger.Settle(&charges);
  books.ledger.SetRateCard({"b", 1'234'567}, books.utc_ns());
  books.Step(&charges, 11 * kSecondNs + 3);
  books.ledger.Settle(&charges);
  books.ledger.SetRateCard({"c", 3, 250'000}, books.utc_ns());
  books.Step(&charges, 13 * kSecondNs + 5);
  books.CloseAll();
  ASSERT_EQ(books.periods.size(), 3u);
  EXPECT_EQ(books.periods[0].rate_card.id, "a");
  EXPECT_EQ(books.periods[1].rate_card.id, "b");
  EXPECT_EQ(books.periods[2].rate_card.id, "c");
  books.ExpectWhole();
  const Cost cost = books.ledger.CostOf(charges);
  const ExactMoney exact = ExactMoneyOf(books.periods[0].rate_card, 7 * kSecondNs + 1) +
                           ExactMoneyOf(books.periods[1].rate_card, 11 * kSecondNs + 3) +
                           ExactMoneyOf(books.periods[2].rate_card, 13 * kSecondNs + 5);
  EXPECT_EQ(cost.cost_nanousd, NanoUsd(exact));
  EXPECT_EQ(cost.rate_card_id, "c");
  EXPECT_EQ(cost.machine_ns, 31 * kSecondNs + 9);
}

TEST(PeriodsTest, SomeTimeWithoutARateMeansNoPriceNeverZero) {
  Books books(kNoon, RateCard());
  Charges charges;
  books.ledger.Open("t", &charges);
  books.Step(&charges, kSecondNs);
  books.ledger.Settle(&charges);
  books.ledger.SetRateCard({"b", 500'000}, books.utc_ns());
  books.Step(&charges, kSecondNs);
  EXPECT_FALSE(books.ledger.CostOf(charges).has_rate);
  Charges later;
  books.ledger.Open("t", &later);
  books.Step(&later, kSecondNs);
  EXPECT_TRUE(books.ledger.CostOf(later).has_rate);
}

TEST(PeriodsTest, TheMachinesShareIsPartOfThePrice) {
  RateCard card = {"half", 1'000'000, 500'000};
  EXPECT_EQ(NanoUsd(card, 3'600 * kSecondNs), 500'000'000);
  card.machine_share_ppm = 1;
  EXPECT_EQ(NanoUsd(card, 3'600 * kSecondNs), 1'000);
  // Ten years of an expensive machine do not overflow.
  card = {"large", 100'000'000, kPpm};
  EXPECT_EQ(NanoUsd(card, int64_t{87'600} * 3'600 * kSecondNs), int64_t{8'760'000} * kSecondNs);
}

TEST(PeriodsTest, TenantsChargesOpenOnesAndRowsAgree) {
  Books books;
  Charges a;
  Charges b;
  Charges c;
  books.ledger.Open("zebra", &a);
  books.ledger.Open("ant", &b);
  books.ledger.Open("ant", &c);
  books.Step(&a, 10);
  books.Step(&b, 20);
  books.Step(&c, 30);
  books.ledger.Close(b, {});
  books.CloseAll();
  ASSERT_EQ(books.periods[0].tenants.size(), 2u);
  const TenantCharges& ant = books.periods[0].tenants[0];
  EXPECT_EQ(ant.tenant, "ant") << "in order of name";
  EXPECT_EQ(ant.request_ns, 50);
  EXPECT_EQ(ant.open_ns, 30);
  EXPECT_EQ(books.periods[0].tenants[1].open_ns, 10);
  // Open and silent: still there, with what it was charged before.
  books.Idle(kSecondNs);
  books.CloseAll();
  ASSERT_EQ(books.periods[1].tenants.size(), 2u);
  EXPECT_EQ(books.periods[1].tenants[0].request_ns, 0);
  EXPECT_EQ(books.periods[1].tenants[0].open_ns, 30);
  books.ledger.Close(a, {.written_off = true});
  books.ledger.Close(c, {.lost = true});
  books.Idle(kSecondNs);
  books.CloseAll();
  EXPECT_EQ(books.periods[2].tenants[0].lost_ns, 30);
  EXPECT_EQ(books.periods[2].tenants[1].written_off_ns, 10);
  EXPECT_EQ(books.periods[2].tenants[1].open_ns, 0);
  books.Idle(kSecondNs);
  books.CloseAll();
  EXPECT_TRUE(books.periods[3].tenants.empty()) << "nobody's name stays";
  EXPECT_EQ(books.ledger.CostOf(a, /*written_off=*/true).cost_nanousd, 0);
  EXPECT_EQ(books.ledger.CostOf(a, /*written_off=*/true).machine_ns, 10);
}

TEST(PeriodsTest, UnrecordedTimeHasAnAccountOfItsOwn) {
  Books books;
  Charges charges;
  books.ledger.Open("t", &charges);
  books.Step(&charges, 100);
  books.ledger.SetUnrecorded(true);
  books.Step(&charges, 1'000);
  books.ledger.SetUnrecorded(false);
  books.Step(&charges, 10);
  books.ledger.Close(charges, {});
  books.CloseAll();
  const Period& period = books.periods[0];
  EXPECT_EQ(period.accounts.request_ns, 110);
  EXPECT_EQ(period.accounts.unrecorded_ns, 1'000);
  EXPECT_EQ(charges.machine_ns, 1'110) << "the caller is told all of it";
  EXPECT_EQ(charges.recorded_ns(), 110);
  EXPECT_EQ(period.tenants[0].open_ns, 0);
  books.ExpectWhole();
}

}  // namespace
}  // namespace tuppence
