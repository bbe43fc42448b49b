// The cloud's bill against the books: every cause has its line, and the lines add up to the bill.
#include "service/bill.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "tests/service/made_store.h"

namespace tuppence {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;

int64_t CauseNs(const BillMachine& machine, BillCause cause) {
  return machine.cause_ns[static_cast<int>(cause)];
}
int64_t Cause(const BillMachine& machine, BillCause cause) {
  return machine.cause_nanousd[static_cast<int>(cause)];
}
int64_t SumOf(const BillMachine& machine) {
  return std::accumulate(machine.cause_nanousd.begin(), machine.cause_nanousd.end(),
                         machine.booked_nanousd);
}

// Two replicas at 0.50 USD an hour. The first one's spot price fell to 0.30 at three o'clock and
// nobody told the books. The second one crashed for an hour, forty seconds after each start, and
// was once more up for twenty seconds, for which the cloud bills sixty.
class BillTest : public ::testing::Test {
 protected:
  BillTest() {
    Hold("a", "i-a", "2026-11-01T00:02:00Z", 20880);
    const int64_t loop_ns = Utc("2026-11-01T01:00:10Z");
    for (int i = 0; i < 60; ++i) {
      const std::string run = absl::StrCat("loop", i);
      store_.Run(run, "i-b", loop_ns + i * 60 * kSecondNs);
      store_.End(run, /*lost_ns=*/40 * kSecondNs);  // before its first period
    }
    Hold("b", "i-b", "2026-11-01T02:00:10Z", 3580);
    Hold("late", "i-b", "2026-11-01T05:00:05Z", 10);
  }

  void Hold(const std::string& run, const std::string& instance, const std::string& from,
            int64_t seconds) {
    store_.Run(run, instance, Utc(from));
    store_.Period(run, {.seconds = seconds, .charges = {}, .micro_usd_per_hour = 500'000});
    store_.End(run);
  }

  BillComparison Compare(const std::string& csv, int64_t increment_ns = kSecondNs) {
    const auto lines = ParseBill(csv);
    EXPECT_TRUE(lines.ok()) << lines.status();
    BillOptions options;
    options.stores = {store_.path()};
    options.lines = *lines;
    options.increment_ns = increment_ns;
    const auto comparison = CompareBill(options);
    EXPECT_TRUE(comparison.ok()) << comparison.status();
    return *comparison;
  }

  MadeStore store_;
};

constexpr char kBill[] =
    "instance,start,end,amount,usd_per_hour\n"
    "i-a,2026-11-01T00:00:00Z,2026-11-01T03:00:00Z,1.50,0.50\n"
    "i-a,2026-11-01T03:00:00Z,2026-11-01T06:00:00Z,0.90,0.30\n"
    "i-b,2026-11-01T01:00:00Z,2026-11-01T03:00:00Z,1.00,0.50\n"
    "i-b,2026-11-01T05:00:00Z,2026-11-01T05:00:20Z,0.008333333,0.50\n";

TEST_F(BillTest, EveryCauseHasItsLineAndTheLinesAddUpToTheBill) {
  const BillComparison comparison = Compare(kBill);
  ASSERT_EQ(comparison.machines.size(), 2u);

  const BillMachine& a = comparison.machines[0];
  EXPECT_EQ(a.billed_nanousd, 2'400'000'000);
  EXPECT_EQ(a.booked_nanousd, 2'900'000'000);
  EXPECT_EQ(CauseNs(a, BillCause::kBeforeStart), 120 * kSecondNs);
  EXPECT_EQ(CauseNs(a, BillCause::kAfterExit), 600 * kSecondNs);
  EXPECT_EQ(CauseNs(a, BillCause::kDown), 0);
  EXPECT_EQ(Cause(a, BillCause::kPrice), -600'000'000);
  EXPECT_EQ(Cause(a, BillCause::kUnexplained), 0);
  EXPECT_EQ(SumOf(a), a.billed_nanousd);

  const BillMachine& b = comparison.machines[1];
  EXPECT_EQ(b.booked_ns, (60 * 40 + 3580 + 10) * kSecondNs);  // what was lost in crashes counts
  EXPECT_EQ(CauseNs(b, BillCause::kDown), 60 * 20 * kSecondNs);
  EXPECT_EQ(Cause(b, BillCause::kDown), 166'666'667);
  EXPECT_EQ(CauseNs(b, BillCause::kBeforeStart), 15 * kSecondNs);
  EXPECT_EQ(CauseNs(b, BillCause::kAfterExit), 15 * kSecondNs);
  EXPECT_EQ(CauseNs(b, BillCause::kMinimum), 40 * kSecondNs);
  EXPECT_EQ(Cause(b, BillCause::kPrice), 0);
  EXPECT_EQ(Cause(b, BillCause::kUnexplained), 0);
  EXPECT_EQ(SumOf(b), 1'008'333'333);

  EXPECT_EQ(comparison.total.billed_nanousd, 3'408'333'333);
  EXPECT_EQ(SumOf(comparison.total), comparison.total.billed_nanousd);
  const std::string table = FormatBillTable(comparison);
  for (const char* line : {"before start", "down", "after exit", "minimum and increment", "price",
                           "unexplained", "3.408333333"}) {
    EXPECT_THAT(table, HasSubstr(line));
  }
}

TEST_F(BillTest, ACrashLoopWhileLoadingIsBookedAtItsShareOfTheMachine) {
  const int64_t loop_ns = Utc("2026-11-03T00:00:00Z");
  for (int i = 0; i < 60; ++i) {
    const std::string run = absl::StrCat("loads", i);
    store_.Run(run, "i-c", loop_ns + i * 60 * kSecondNs, /*machine_share_ppm=*/250'000,
               /*model=*/"");
    store_.End(run, /*lost_ns=*/40 * kSecondNs);
  }
  store_.Run("c", "i-c", Utc("2026-11-03T01:00:00Z"), /*machine_share_ppm=*/250'000);
  store_.Period("c", {.seconds = 3600, .charges = {}, .micro_usd_per_hour = 500'000});
  store_.End("c");
  const BillComparison comparison =
      Compare("instance,start,end,amount\ni-c,2026-11-03T00:00:00Z,2026-11-03T02:00:00Z,1.00\n");
  ASSERT_EQ(comparison.machines.size(), 1u);
  const BillMachine& c = comparison.machines[0];
  EXPECT_EQ(c.booked_ns, (60 * 40 + 3600) * kSecondNs);
  EXPECT_EQ(c.booked_nanousd, 208'333'333) << "a quarter of 6000 s";
  EXPECT_EQ(Cause(c, BillCause::kOtherShare), 625'000'000);
  EXPECT_EQ(Cause(c, BillCause::kDown), 166'666'667);
  EXPECT_EQ(Cause(c, BillCause::kUnexplained), 0);
  EXPECT_EQ(SumOf(c), c.billed_nanousd);
}

TEST_F(BillTest, WholeHoursAreBilledWhereTheIncrementIsAnHour) {
  Hold("h", "i-h", "2026-11-03T00:00:00Z", 4500);
  Hold("whole", "i-h", "2026-11-03T05:00:00Z", 3600);
  const BillComparison comparison = Compare(
      "instance,start,end,amount,usd_per_hour\n"
      "i-h,2026-11-03T00:00:00Z,2026-11-03T01:15:00Z,1.00,0.50\n"
      "i-h,2026-11-03T05:00:00Z,2026-11-03T06:00:00Z,0.50,0.50\n",
      /*increment_ns=*/3600 * kSecondNs);
  ASSERT_EQ(comparison.machines.size(), 1u);
  const BillMachine& h = comparison.machines[0];
  EXPECT_EQ(CauseNs(h, BillCause::kMinimum), 2700 * kSecondNs) << "of the first alone";
  EXPECT_EQ(Cause(h, BillCause::kMinimum), 375'000'000);
  EXPECT_EQ(Cause(h, BillCause::kPrice), 0);
  EXPECT_EQ(Cause(h, BillCause::kUnexplained), 0);
  EXPECT_EQ(SumOf(h), 1'500'000'000);
}

TEST_F(BillTest, WhatNothingExplainsIsUnexplained) {
  std::string bill = kBill;
  bill.replace(bill.find("1.00,0.50"), 9, "1.25,0.50");
  const BillComparison comparison = Compare(bill);
  EXPECT_EQ(Cause(comparison.machines[1], BillCause::kUnexplained), 250'000'000);
  EXPECT_EQ(SumOf(comparison.machines[1]), comparison.machines[1].billed_nanousd);
}

TEST_F(BillTest, WithoutARateBookedMoneyIsUnknownAndNeverZero) {
  store_.Run("u", "i-u", Utc("2026-11-03T00:10:00Z"));
  store_.Period("u", {.seconds = 1200, .charges = {}, .rate_card_id = ""});
  store_.End("u");
  const BillComparison comparison = Compare(
      "instance,start,end,amount,usd_per_hour\n"
      "i-u,2026-11-03T00:00:00Z,2026-11-03T01:00:00Z,0.50,0.50\n");
  ASSERT_EQ(comparison.machines.size(), 1u);
  const auto json = nlohmann::json::parse(FormatBillJson(comparison));
  for (const auto& machine : {json["machines"][0], json["total"]}) {
    EXPECT_EQ(machine["booked_ns"], 1200 * kSecondNs);
    EXPECT_TRUE(machine["booked_nanousd"].is_null());
    int64_t sum = 0;
    for (const auto& [name, cause] : machine["causes"].items()) {
      EXPECT_TRUE(cause["nanousd"].is_null() || cause["ns"] == 0) << name;
      if (!cause["nanousd"].is_null()) sum += cause["nanousd"].get<int64_t>();
    }
    EXPECT_EQ(sum, 500'000'000) << "what is known adds up to the bill";
  }
  const std::string csv = FormatBillCsv(comparison);
  EXPECT_THAT(csv, HasSubstr("i-u,booked,1200000000000,\n"));
  EXPECT_THAT(csv, HasSubstr("i-u,before start,600000000000,\n"));
  EXPECT_THAT(csv, HasSubstr("i-u,after exit,1800000000000,\n"));
  EXPECT_THAT(csv, HasSubstr("i-u,billed,3600000000000,500000000\n"));
  EXPECT_THAT(FormatBillTable(comparison), ContainsRegex("after exit +1800.000 +no rate card"));
}

TEST_F(BillTest, AMachineWithoutBooksIsNamed) {
  const BillComparison comparison =
      Compare("start,end,instance,amount\n2026-11-01T00:00:00Z,2026-11-01T01:00:00Z,i-z,0.5\n");
  const BillMachine& z = comparison.machines.back();
  EXPECT_FALSE(z.has_store);
  EXPECT_EQ(SumOf(z), 500'000'000);
  EXPECT_THAT(FormatBillTable(comparison), HasSubstr("i-z: none of the stores has a run of it"));
}

TEST(BillFileTest, ErrorsNameTheLineAndTheWayOut) {
  const std::pair<const char*, const char*> wrong[] = {
      {"instance,start,end\n", "no column \"amount\""},
      {"instance,start,end,amount\ni,2026-11-01,2026-11-02T00:00:00Z,1\n", "line 2: start"},
      {"instance,start,end,amount\ni,2026-11-02T00:00:00Z,2026-11-01T00:00:00Z,1\n",
       "end is before start"},
      {"instance,start,end,amount\ni,2026-11-01T00:00:00Z,2026-11-02T00:00:00Z,1e3\n", "amount"},
      {"instance,start,end,amount\ni,2026-11-01T00:00:00Z\n", "has 2 cells"},
      {"instance,start,end,amount\n", "no line below the heading"}};
  for (const auto& [csv, message] : wrong) {
    EXPECT_THAT(std::string(ParseBill(csv).status().message()), HasSubstr(message)) << csv;
  }
}

}  // namespace
}  // namespace tuppence
