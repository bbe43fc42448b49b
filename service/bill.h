// The cloud's bill set against the books: for each machine what was billed, what was booked, and
// one line for each cause of the difference; the lines add up to the bill, to the nano-dollar.
// Called by invoice_command (--bill).
//
// Booked is the time that a process held the machine. The cloud bills from the machine's start to
// its end, at its own price, with a minimum and in steps; everything between the two has a line.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "service/rate_cards.h"

namespace tuppence {

struct BillLine {
  std::string instance;
  int64_t start_utc_ns = 0;
  int64_t end_utc_ns = 0;
  int64_t amount_nanousd = 0;
  std::optional<int64_t> micro_usd_per_hour;  // where the bill names its price
};

// CSV with a heading that has instance, start, end, amount and perhaps usd_per_hour, in any order,
// other columns ignored; times with offset. INVALID_ARGUMENT names the line.
absl::StatusOr<std::vector<BillLine>> ParseBill(const std::string& csv);
absl::StatusOr<std::vector<BillLine>> ReadBill(const std::string& path);

enum class BillCause {
  kBeforeStart,  // billed before the first process: boot, download
  kDown,         // between two processes
  kAfterExit,    // after the last one
  kMinimum,      // the least time billed, and rounding up to whole steps
  kOtherShare,   // the part of the machine that was not ours (--machine-share)
  kPrice,        // another price than the one booked
  kUnexplained,
};
constexpr int kBillCauses = 7;
extern const std::array<const char*, kBillCauses> kBillCauseNames;

struct BillMachine {
  std::string instance;
  int64_t billed_nanousd = 0;
  int64_t billed_ns = 0;  // from start to end, without what the minimum adds
  int64_t booked_nanousd = 0;
  int64_t booked_ns = 0;
  int64_t unpriced_ns = 0;  // of booked_ns, without a rate card
  std::array<int64_t, kBillCauses> cause_nanousd = {};
  std::array<int64_t, kBillCauses> cause_ns = {};
  bool price_from_bill = false;  // nothing names the price: it is what the bill comes to
  bool has_store = false;        // a run of this instance is in the stores

  // None where no rate is known to price that time at: never zero.
  std::optional<int64_t> booked_money() const;
  std::optional<int64_t> cause_money(int cause) const;
};

struct BillOptions {
  std::vector<std::string> stores;
  std::vector<BillLine> lines;
  std::optional<RateCards> rates;  // what the cloud's prices really were
  int64_t minimum_ns = 60'000'000'000;
  int64_t increment_ns = 1'000'000'000;
};

struct BillComparison {
  std::vector<BillMachine> machines;  // by instance
  BillMachine total;
};

absl::StatusOr<BillComparison> CompareBill(const BillOptions& options);

std::string FormatBillTable(const BillComparison& comparison);
std::string FormatBillCsv(const BillComparison& comparison);
std::string FormatBillJson(const BillComparison& comparison);

}  // namespace tuppence
