// The invoice: every nano-dollar of the time held is on exactly one line, on both bases.
#include "service/invoice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/service/invoice_fixture.h"

namespace tuppence {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

// How many keys there are that end in _nanousd, each null where there is machine time beside it. A
// reference price needs no rate card.
int ExpectNoMoney(const nlohmann::json& json, const std::string& where) {
  int keys = 0;
  for (const auto& [key, value] : json.items()) {
    const std::string here = absl::StrCat(where, "/", key);
    if (value.is_structured()) keys += ExpectNoMoney(value, here);
    if (!absl::EndsWith(key, "_nanousd") || key == "reference_nanousd") continue;
    if (json.value("machine_ns", int64_t{1}) == 0) continue;
    EXPECT_TRUE(value.is_null()) << here << " is " << value;
    ++keys;
  }
  return keys;
}

TEST_F(InvoiceTest, TotalIsRateTimesTimeHeldToTheNanoDollar) {
  Fill();
  for (const Allocation allocation :
       {Allocation::kProportional, Allocation::kEven, Allocation::kNone}) {
    InvoiceOptions options;
    options.allocation = allocation;
    const Invoice invoice = Make(options);
    EXPECT_EQ(invoice.machine.machine_ns, 3600 * kSecondNs);
    EXPECT_EQ(invoice.machine.nanousd, 526'000'000);
    int64_t usage = invoice.tenants.usage.nanousd;
    for (const PricedTime& account : invoice.accounts) usage += account.nanousd;
    EXPECT_EQ(usage, 526'000'000);
    EXPECT_EQ(AllocationSum(invoice), 526'000'000);
  }
}

TEST_F(InvoiceTest, EvenSharesAreEvenAndNoneLeavesTheRestToNobody) {
  Fill();
  InvoiceOptions options;
  options.allocation = Allocation::kEven;
  const Invoice even = Make(options);
  ASSERT_EQ(even.lines.size(), 2u);  // one day of UTC, two tenants
  EXPECT_NEAR(even.lines.begin()->second.allocated_nanousd,
              even.lines.rbegin()->second.allocated_nanousd, 1);
  options.allocation = Allocation::kNone;
  const Invoice none = Make(options);
  EXPECT_EQ(none.tenants.allocated_nanousd, 0);
  EXPECT_EQ(none.unallocated_ns + none.tenants.usage.machine_ns, none.machine.machine_ns);
}

TEST_F(InvoiceTest, ADayBelongsToItsTimeZone) {
  Fill();
  InvoiceOptions options;
  ASSERT_TRUE(absl::LoadTimeZone("Europe/Berlin", &options.time_zone));
  const Invoice berlin = Make(options);
  const InvoiceLine& acme_2nd = berlin.lines.at({absl::CivilDay(2026, 11, 2), "acme", "phi"});
  EXPECT_EQ(acme_2nd.usage.machine_ns, 100'000'000'000);
  EXPECT_EQ(berlin.machine.nanousd, 526'000'000);
  EXPECT_THAT(FormatInvoiceTable(berlin), HasSubstr("days of Europe/Berlin"));
  options.window.from_ns = *ParseInvoiceTime("2026-11-02", options.time_zone);
  const Invoice second = Make(options);
  EXPECT_EQ(second.machine.machine_ns, 1800 * kSecondNs);
  EXPECT_EQ(second.machine.nanousd, 263'000'000);
}

TEST_F(InvoiceTest, ADayOfAZoneAnHourPartOffBeginsAtItsOwnMidnight) {
  store_.Run("r", "i-a", Utc("2026-11-01T18:00:00Z"));
  for (const int64_t seconds : {1, 2}) {
    store_.Period("r", {.seconds = 900, .charges = {{"acme", "", seconds * kSecondNs, 0, 0, 0}}});
  }
  store_.End("r");
  InvoiceOptions options;
  ASSERT_TRUE(absl::LoadTimeZone("Asia/Kathmandu", &options.time_zone));  // UTC+5:45
  const Invoice kathmandu = Make(options);
  for (const int day : {1, 2}) {
    const InvoiceLine& line = kathmandu.lines.at({absl::CivilDay(2026, 11, day), "acme", "phi"});
    EXPECT_EQ(line.usage.machine_ns, day * kSecondNs);
    EXPECT_EQ(line.usage.machine_ns + line.allocated_ns, 900 * kSecondNs);
  }
  options.window.from_ns = *ParseInvoiceTime("2026-11-02", options.time_zone);
  EXPECT_EQ(options.window.from_ns, Utc("2026-11-01T18:15:00Z"));
  EXPECT_EQ(Make(options).machine.machine_ns, 900 * kSecondNs);
}

TEST_F(InvoiceTest, AllocationStaysWithinAModelAndADay) {
  const int64_t noon_ns = Utc("2026-11-01T12:00:00Z");
  store_.Run("phi", "i-a", noon_ns);
  store_.Period("phi", {.seconds = 100,
                        .charges = {{"acme", "", 60 * kSecondNs, 0, 0, 0},
                                    {"beta", "", 20 * kSecondNs, 0, 0, 0}}});
  store_.End("phi");
  store_.Run("mini", "i-b", noon_ns, kPpm, "mini");
  store_.Period("mini", {.seconds = 500, .charges = {{"acme", "mini", 10 * kSecondNs, 0, 0, 0}}});
  store_.End("mini");
  store_.Run("idle", "i-a", noon_ns + 86'400 * kSecondNs);
  store_.Period("idle", {.seconds = 40, .charges = {}});
  store_.End("idle");
  const Invoice invoice = Make();
  const absl::CivilDay day(2026, 11, 1);
  EXPECT_EQ(invoice.lines.at({day, "acme", "phi"}).allocated_ns, 15 * kSecondNs);
  EXPECT_EQ(invoice.lines.at({day, "beta", "phi"}).allocated_ns, 5 * kSecondNs);
  EXPECT_EQ(invoice.lines.at({day, "acme", "mini"}).allocated_ns, 490 * kSecondNs);
  EXPECT_EQ(invoice.machine_days.at({day + 1, "phi"}).unallocated_ns, 40 * kSecondNs);
  EXPECT_EQ(invoice.unallocated_nanousd, CostOf(40 * kSecondNs)) << "nobody asked on that day";
  EXPECT_EQ(AllocationSum(invoice), CostOf(640 * kSecondNs));
}

TEST_F(InvoiceTest, WhatCallersWereToldAddsUpToo) {
  Fill();
  const Invoice invoice = Make();
  const Reconciliation& lines = invoice.reconciliation;
  EXPECT_EQ(lines.told_nanousd,
            CostOf(600'000'000'001) + CostOf(150'000'000'003) + CostOf(50'000'000'000));
  EXPECT_EQ(lines.written_off_nanousd, CostOf(100'000'000'000));
  EXPECT_EQ(lines.open_nanousd, 0);
  EXPECT_EQ(lines.other_nanousd, 0);
  EXPECT_LE(std::abs(lines.rounding_nanousd), 4);
  EXPECT_EQ(lines.told_nanousd + lines.written_off_nanousd + lines.rounding_nanousd,
            invoice.tenants.usage.nanousd);
  EXPECT_THAT(FormatInvoiceTable(invoice), HasSubstr("rounding"));
}

// A window of the second and third of four minutes. "cut" began before it and "late" ends behind
// it; for six seconds nothing could be stored: a request that ended then is lost, and of one that
// went on the rest is recorded. A second process is killed after its last period.
TEST_F(InvoiceTest, EveryLineFromToldToUsage) {
  const auto charges = [](int64_t seconds, int64_t open, int64_t written_off, int64_t lost) {
    return std::vector<StoredCharge>{{"acme", "", seconds * kSecondNs, open * kSecondNs,
                                      written_off * kSecondNs, lost * kSecondNs}};
  };
  store_.Run("r", "i-a", start_);
  store_.Period("r", {.charges = charges(10, 4, 0, 0)});  // "early" 6 s, "cut" 4 s
  // "cut" 9 s, "failed" 3 s, the lost one 2 s, "mixed" 2 s and 6 s more, "late" 4 s.
  store_.Period("r",
                {.accounts = {.unrecorded_ns = 6 * kSecondNs}, .charges = charges(20, 4, 3, 2)});
  store_.Period("r", {.charges = charges(8, 7, 0, 0)});  // "late" 3 s, "quick" 5 s
  store_.Period("r", {.charges = charges(1, 0, 0, 0)});  // "late" 1 s
  store_.End("r");
  store_.Run("k", "i-b", start_ + 70 * kSecondNs);
  store_.Period("k", {.seconds = 10, .charges = {}});
  store_.End("k", /*lost_ns=*/3 * kSecondNs);
  const auto row = [&](const char* run, const char* id, int64_t seconds, int64_t at_s,
                       int64_t unrecorded_s = 0) {
    store_.Request(run, {.id = id,
                         .machine_ns = seconds * kSecondNs,
                         .ended_ns = start_ + at_s * kSecondNs,
                         .cost_nanousd = CostOf(seconds * kSecondNs),
                         .unrecorded_ns = unrecorded_s * kSecondNs});
  };
  row("r", "early", 6, 30);
  row("r", "cut", 13, 80);
  row("r", "mixed", 8, 110, /*unrecorded_s=*/6);
  row("r", "quick", 5, 150);
  row("r", "late", 8, 200);
  row("k", "killed", 2, 82);
  store_.Request("r", {.id = "failed",
                       .machine_ns = 3 * kSecondNs,
                       .ended_ns = start_ + 90 * kSecondNs,
                       .cost_nanousd = 0,
                       .written_off = true});

  InvoiceOptions options;
  options.window = {start_ + 60 * kSecondNs, start_ + 180 * kSecondNs};
  const Invoice invoice = Make(options);
  const auto price = [](int64_t seconds) { return CostOf(seconds * kSecondNs); };
  const Reconciliation& lines = invoice.reconciliation;
  EXPECT_EQ(lines.told_nanousd, price(13) + price(8) + price(5) + price(2));
  EXPECT_EQ(lines.open_nanousd, price(7 - 4)) << "\"late\" so far, without what \"cut\" had used";
  EXPECT_EQ(lines.written_off_nanousd, price(3));
  EXPECT_EQ(lines.lost_nanousd, price(2));
  EXPECT_EQ(lines.unrecorded_nanousd, price(6));
  EXPECT_EQ(lines.not_booked_nanousd, price(2));
  EXPECT_LE(std::abs(lines.rounding_nanousd), 5);
  EXPECT_EQ(lines.other_nanousd, 0);
  EXPECT_EQ(invoice.tenants.usage.nanousd, price(28));
  EXPECT_EQ(lines.told_nanousd + lines.open_nanousd + lines.written_off_nanousd +
                lines.lost_nanousd - lines.unrecorded_nanousd - lines.not_booked_nanousd +
                lines.rounding_nanousd,
            invoice.tenants.usage.nanousd);
  EXPECT_EQ(invoice.accounts[static_cast<int>(OtherAccount::kUnrecorded)].machine_ns,
            6 * kSecondNs);
  const std::string table = FormatInvoiceTable(invoice);
  for (const char* line : {"told on answers", "open", "written off", "lost", "booked as unrecorded",
                           "after a process's last period", "rounding", "unrecorded +6.000"}) {
    EXPECT_THAT(table, ContainsRegex(line));
  }
  EXPECT_THAT(table, Not(HasSubstr("rates that changed")));
}

TEST_F(InvoiceTest, WithoutARateMoneyIsUnknownAndNeverZero) {
  Fill(/*card=*/"");
  const Invoice invoice = Make();
  EXPECT_FALSE(invoice.priced());
  const std::string table = FormatInvoiceTable(invoice);
  EXPECT_THAT(table, HasSubstr("no rate card"));
  EXPECT_THAT(table, Not(HasSubstr("0.000000000")));
  const auto json = nlohmann::json::parse(FormatInvoiceJson(invoice));
  EXPECT_TRUE(json["told"].is_null());
  EXPECT_TRUE(json["reference"]["saving_nanousd"].is_null());
  EXPECT_EQ(json["total"]["held_ns"], 3600 * kSecondNs);
  // Two lines, three accounts, the day, and the total with its accounts.
  EXPECT_EQ(ExpectNoMoney(json, ""), 2 * 4 + 3 + 1 + 4 + 2 + 3 + 1);
  int cells = 0;
  for (const auto& row : CsvRows(invoice)) {
    EXPECT_GT(std::stoll(row.at("machine_ns")), 0);
    for (const auto& [name, cell] : row) {
      if (!absl::EndsWith(name, "_nanousd") || name == "reference_nanousd") continue;
      EXPECT_EQ(cell, "") << name << " of " << row.at("account");
      ++cells;
    }
  }
  EXPECT_EQ(cells, 5 * 4);
  EXPECT_FALSE(FormatInvoiceFocus(invoice).ok());
}

TEST_F(InvoiceTest, RepricingIsAMarkedViewAndLeavesTheStoreAlone) {
  Fill();
  const Invoice booked = Make();
  InvoiceOptions options;
  options.reprice = *RateCards::Parse(R"({"rate_cards": [{"id": "half", "source": "effective",
      "valid_from": "2026-01-01T00:00:00Z", "usd_per_hour": "0.263"}]})");
  const Invoice repriced = Make(options);
  EXPECT_EQ(repriced.machine.nanousd, 263'000'000);
  EXPECT_THAT(FormatInvoiceTable(repriced), HasSubstr("REPRICED"));
  EXPECT_THAT(FormatInvoiceTable(booked), Not(HasSubstr("REPRICED")));
  EXPECT_EQ(Make().machine.nanousd, booked.machine.nanousd);
}

TEST_F(InvoiceTest, AtLowLoadTheApiWouldHaveBeenCheaper) {
  Fill();
  InvoiceOptions options;
  options.reference = *FindReferencePrice("gpt-4o-mini");
  const Invoice invoice = Make(options);
  // Three answers of 600 new, 400 cached and 100 written tokens; the one that failed is not asked.
  EXPECT_EQ(invoice.tenants.reference_nanousd, 3 * (600 * 150 + 400 * 75 + 100 * 600));
  EXPECT_EQ(invoice.saving_nanousd(), 540'000 - 526'000'000);
  EXPECT_EQ(*invoice.break_even_requests(), (526'000'000 + 180'000 - 1) / 180'000);
  const std::string table = FormatInvoiceTable(invoice);
  EXPECT_THAT(table, HasSubstr("The API would have been cheaper by 0.525460000 USD"));
  EXPECT_THAT(table, HasSubstr("unadjusted"));
  EXPECT_THAT(table, HasSubstr("Break-even: 2,923 requests"));
}

TEST_F(InvoiceTest, AShareOfAMachineAndSeveralStoresAddUp) {
  Fill();
  MadeStore other;
  other.Run("o", "i-b", start_, /*machine_share_ppm=*/250'000);
  other.Period("o", {.seconds = 3600, .charges = {}});
  other.End("o");
  InvoiceOptions options;
  options.stores = {store_.path(), other.path()};
  EXPECT_EQ(Make(options).machine.nanousd, 526'000'000 + 131'500'000);
  options.stores = {store_.path(), store_.path()};
  EXPECT_THAT(std::string(MakeInvoice(options).status().message()), HasSubstr("give each store"));
}

TEST_F(InvoiceTest, CsvColumnsAddUpToTheTotal) {
  Fill();
  int64_t usage = 0;
  int64_t allocation = 0;
  for (const auto& row : CsvRows(Make())) {
    usage += std::stoll(row.at("usage_nanousd"));
    allocation += std::stoll(row.at("allocation_nanousd"));
  }
  EXPECT_EQ(usage, 526'000'000);
  EXPECT_EQ(allocation, 526'000'000);
}

TEST_F(InvoiceTest, FocusBillsTheAllocationAndCreditsWhatWasWrittenOff) {
  Fill();
  const auto focus = FormatInvoiceFocus(Make());
  ASSERT_TRUE(focus.ok()) << focus.status();
  std::istringstream csv(*focus);
  std::string line;
  std::getline(csv, line);
  EXPECT_THAT(line, HasSubstr("BilledCost,"));
  const std::vector<std::string> heading = absl::StrSplit(line, ',');
  int64_t nanousd = 0;
  int credits = 0;
  while (std::getline(csv, line)) {
    const std::vector<std::string> cells = absl::StrSplit(line, ',');
    if (cells[6] == "Credit") {
      ++credits;
      for (const size_t quantity : {12, 13, 18, 19}) {
        EXPECT_THAT(heading[quantity], ContainsRegex("(Consumed|Pricing)(Quantity|Unit)"));
        EXPECT_EQ(cells[quantity], "") << "a credit has no " << heading[quantity];
      }
    }
    const std::string& cost = cells[0];
    std::string digits;
    for (const char c : cost) {
      if (c != '.') digits += c;
    }
    nanousd += std::stoll(digits);
  }
  EXPECT_EQ(nanousd, 526'000'000 - CostOf(100'000'000'000));
  EXPECT_EQ(credits, 1);
}

TEST(InvoiceTimeTest, IsADayOrATimeWithOffset) {
  EXPECT_EQ(*ParseInvoiceTime("2026-11-01", absl::UTCTimeZone()), Utc("2026-11-01T00:00:00Z"));
  EXPECT_EQ(*ParseInvoiceTime("2026-11-01T12:00:00+01:00", absl::UTCTimeZone()),
            Utc("2026-11-01T11:00:00Z"));
  for (const char* text : {"2026-13-01", "yesterday", "2026-11-01T12:00:00", ""}) {
    EXPECT_FALSE(ParseInvoiceTime(text, absl::UTCTimeZone()).ok()) << text;
  }
}

}  // namespace
}  // namespace tuppence
