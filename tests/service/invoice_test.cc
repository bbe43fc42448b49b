// The invoice: every nano-dollar of the time held is on exactly one line, on both bases.
#include "service/invoice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "service/invoice_format.h"
#include "service/money.h"
#include "tests/service/made_store.h"

namespace tuppence {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kRate = 526'000;

int64_t CostOf(int64_t ns) {
  RateCard card;
  card.micro_usd_per_hour = kRate;
  return NanoUsd(card, ns);
}

// Two periods of half an hour around midnight in Berlin (23:00 UTC). Odd nanoseconds, so that
// nothing divides evenly.
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

class InvoiceTest : public ::testing::Test {
 protected:
  void Fill(const std::string& card = "card") {
    store_.Run("r", "i-a", start_);
    store_.Period("r", {.seconds = 1800,
                        .accounts = {.startup_ns = 10'000'000'007},
                        .charges = {{"acme", "", 600'000'000'001, 0, 0, 0},
                                    {"beta", "", 200'000'000'003, 50'000'000'000, 0, 0}},
                        .micro_usd_per_hour = kRate,
                        .rate_card_id = card});
    store_.Period("r", {.seconds = 1800,
                        .accounts = {.overhead_ns = 5'000'000'011},
                        .charges = {{"acme", "", 100'000'000'000, 0, 100'000'000'000, 0}},
                        .micro_usd_per_hour = kRate,
                        .rate_card_id = card});
    store_.End("r");
    const auto told = [&](int64_t ns) {
      return card.empty() ? std::nullopt : std::optional<int64_t>(CostOf(ns));
    };
    store_.Request("r", {.id = "a1",
                         .machine_ns = 600'000'000'001,
                         .ended_ns = start_ + 700 * kSecondNs,
                         .cost_nanousd = told(600'000'000'001),
                         .reference_nanousd = 1000});
    store_.Request("r", {.id = "b1",
                         .tenant = "beta",
                         .machine_ns = 150'000'000'003,
                         .ended_ns = start_ + 800 * kSecondNs,
                         .cost_nanousd = told(150'000'000'003)});
    store_.Request("r", {.id = "b2",
                         .tenant = "beta",
                         .machine_ns = 50'000'000'000,
                         .ended_ns = start_ + 1900 * kSecondNs,
                         .cost_nanousd = told(50'000'000'000)});
    store_.Request("r", {.id = "a2",
                         .machine_ns = 100'000'000'000,
                         .ended_ns = start_ + 2000 * kSecondNs,
                         .cost_nanousd = told(0),
                         .written_off = true});
  }

  Invoice Make(InvoiceOptions options = {}) {
    if (options.stores.empty()) options.stores = {store_.path()};
    const auto invoice = MakeInvoice(options);
    EXPECT_TRUE(invoice.ok()) << invoice.status();
    return *invoice;
  }

  // The CSV's rows, each as what its columns' names say.
  static std::vector<std::map<std::string, std::string>> CsvRows(const Invoice& invoice) {
    std::vector<std::string> lines = absl::StrSplit(FormatInvoiceCsv(invoice), '\n');
    const std::vector<std::string> names = absl::StrSplit(lines[0], ',');
    std::vector<std::map<std::string, std::string>> rows;
    for (size_t i = 1; i + 1 < lines.size(); ++i) {  // the last line ends too
      const std::vector<std::string> cells = absl::StrSplit(lines[i], ',');
      EXPECT_EQ(cells.size(), names.size()) << lines[i];
      for (size_t c = 0; c < names.size(); ++c) {
        if (c == 0) rows.emplace_back();
        rows.back()[names[c]] = cells.at(c);
      }
    }
    return rows;
  }

  static int64_t AllocationSum(const Invoice& invoice) {
    int64_t sum = invoice.unallocated_nanousd;
    for (const auto& [key, line] : invoice.lines) sum += line.allocation_nanousd();
    return sum;
  }

  MadeStore store_;
  const int64_t start_ = Utc("2026-11-01T22:30:00Z");
};

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

TEST_F(InvoiceTest, TimeNotBookedIsUnaccountedAndTimeBetweenProcessesDown) {
  store_.Run("first", "i-a", start_);
  store_.Period("first", {.seconds = 60, .charges = {}});
  store_.End("first", /*lost_ns=*/7 * kSecondNs);
  store_.Request("first", {.id = "told",
                           .machine_ns = kSecondNs,
                           .ended_ns = start_ + 65 * kSecondNs,
                           .cost_nanousd = CostOf(kSecondNs)});
  store_.Run("second", "i-a", start_ + 100 * kSecondNs);
  store_.Period("second", {.seconds = 20, .charges = {}});
  store_.End("second");
  const Invoice invoice = Make();
  EXPECT_EQ(invoice.accounts[static_cast<int>(OtherAccount::kUnaccounted)].machine_ns,
            7 * kSecondNs);
  EXPECT_EQ(invoice.down_ns, 33 * kSecondNs);
  EXPECT_EQ(invoice.machine.machine_ns, 87 * kSecondNs);
  EXPECT_EQ(invoice.machine.nanousd, CostOf(87 * kSecondNs));
  EXPECT_EQ(invoice.reconciliation.not_booked_nanousd, CostOf(kSecondNs));
  EXPECT_EQ(invoice.reconciliation.other_nanousd, 0);
}

TEST_F(InvoiceTest, AProcessKilledBeforeItsFirstPeriodCostsWhatItsNeighbourDid) {
  store_.Run("killed", "i-a", start_);
  store_.End("killed", /*lost_ns=*/30 * kSecondNs);
  store_.Run("next", "i-a", start_ + 40 * kSecondNs);
  store_.Period("next", {.seconds = 20, .charges = {}});
  store_.End("next");
  store_.Run("last", "i-a", start_ + 60 * kSecondNs);
  store_.End("last", /*lost_ns=*/10 * kSecondNs);
  const Invoice invoice = Make();
  EXPECT_EQ(invoice.machine.unpriced_ns, 0);
  EXPECT_EQ(invoice.machine.nanousd, CostOf(60 * kSecondNs));
}

TEST_F(InvoiceTest, AWindowOfNothingButACrashLoopIsAnInvoice) {
  for (int i = 0; i < 3; ++i) {
    const std::string run = absl::StrCat("loop", i);
    store_.Run(run, "i-a", start_ + i * 60 * kSecondNs);
    store_.End(run, /*lost_ns=*/40 * kSecondNs);
  }
  const int64_t well_ns = start_ + 600 * kSecondNs;
  store_.Run("well", "i-a", well_ns);
  store_.Period("well", {.seconds = 60, .charges = {}});
  store_.End("well");
  InvoiceOptions options;
  options.window.to_ns = well_ns;
  const Invoice loop = Make(options);
  EXPECT_EQ(loop.periods, 0);
  EXPECT_EQ(loop.runs, 3);
  EXPECT_EQ(loop.machine.nanousd, CostOf(120 * kSecondNs));
  const std::string table = FormatInvoiceTable(loop);
  EXPECT_THAT(table, HasSubstr("Rate cards: card."));
  EXPECT_THAT(table, ContainsRegex("unaccounted +120"));
  EXPECT_THAT(table, HasSubstr(FormatUsd(CostOf(120 * kSecondNs))));
  EXPECT_THAT(table, HasSubstr("480.000 s between two processes"));
  options.window = {well_ns + 60 * kSecondNs, well_ns + 61 * kSecondNs};
  EXPECT_THAT(FormatInvoiceTable(Make(options)), HasSubstr("Nothing is booked in this time."));
}

TEST_F(InvoiceTest, AProcessThatEndsWhileItLoadsCostsItsShareAndItsTenantsTheRest) {
  for (int i = 0; i < 3; ++i) {
    const std::string run = absl::StrCat("loads", i);
    store_.Run(run, "i-a", start_ + i * 40 * kSecondNs, /*machine_share_ppm=*/250'000,
               /*model=*/"");
    store_.End(run, /*lost_ns=*/30 * kSecondNs);
  }
  store_.Run("ready", "i-a", start_ + 120 * kSecondNs, /*machine_share_ppm=*/250'000);
  store_.Period("ready", {.seconds = 60, .charges = {{"acme", "", kSecondNs, 0, 0, 0}}});
  store_.End("ready");
  store_.Run("last", "i-a", start_ + 200 * kSecondNs, /*machine_share_ppm=*/250'000, /*model=*/"");
  store_.End("last", /*lost_ns=*/10 * kSecondNs);
  const Invoice invoice = Make();
  EXPECT_EQ(invoice.machine.machine_ns, 160 * kSecondNs);
  EXPECT_EQ(invoice.machine.nanousd, CostOf(40 * kSecondNs)) << "a quarter of the machine's";
  EXPECT_EQ(invoice.machine_days.size(), 1u) << "all of it loaded phi";
  EXPECT_EQ(invoice.unallocated_ns, 0);
  EXPECT_EQ(invoice.tenants.allocation_nanousd(), invoice.machine.nanousd);
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

TEST_F(InvoiceTest, TwoProcessesSideBySideOnOneMachineBothStillRun) {
  MadeStore other;
  for (MadeStore* store : {&store_, &other}) {
    store->Run(store == &other ? "o" : "r", "i-a", start_, /*machine_share_ppm=*/500'000);
    store->Period(store == &other ? "o" : "r", {.seconds = 60, .charges = {}});
  }
  store_.Request("r", {.id = "late", .ended_ns = start_ + 65 * kSecondNs});
  InvoiceOptions options;
  options.stores = {store_.path(), other.path()};
  const Invoice invoice = Make(options);
  EXPECT_EQ(invoice.not_booked_ns, 5 * kSecondNs);
  EXPECT_EQ(invoice.accounts[static_cast<int>(OtherAccount::kUnaccounted)].machine_ns, 0);
  EXPECT_EQ(invoice.machine.nanousd, CostOf(60 * kSecondNs)) << "two halves of one machine";
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
