// What tests of the invoice share: a store made period by period, and the invoice of it.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "service/invoice.h"
#include "service/invoice_format.h"
#include "tests/service/made_store.h"

namespace tuppence {

class InvoiceTest : public ::testing::Test {
 protected:
  static constexpr int64_t kRate = 526'000;

  static int64_t CostOf(int64_t ns) {
    RateCard card;
    card.micro_usd_per_hour = kRate;
    return NanoUsd(card, ns);
  }

  // Two periods of half an hour around midnight in Berlin (23:00 UTC). Odd nanoseconds, so that
  // nothing divides evenly.
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

}  // namespace tuppence
