// What the invoice makes of processes that were killed, crash, overlap or were between two others.
#include <gmock/gmock.h>

#include "absl/strings/str_cat.h"
#include "service/money.h"
#include "tests/service/invoice_fixture.h"

namespace tuppence {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;

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

TEST_F(InvoiceTest, WhereNoProcessWasEverReadyTheCardIsTheOneItStartedUnder) {
  store_.Run("loop", "i-a", start_);
  store_.End("loop", /*lost_ns=*/40 * kSecondNs);
  EXPECT_EQ(Make().machine.unpriced_ns, 40 * kSecondNs) << "a store of an older version";
  store_.Sql("UPDATE runs SET start_rate_card_id = 'card', start_micro_usd_per_hour = 526000");
  const Invoice invoice = Make();
  EXPECT_EQ(invoice.machine.unpriced_ns, 0);
  EXPECT_EQ(invoice.machine.nanousd, CostOf(40 * kSecondNs));
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

}  // namespace
}  // namespace tuppence
