// Invoice: what the machine cost, for whom and on which day, made from the periods of one or many
// usage stores; the rows add counts and what callers were told. Pure arithmetic over what
// UsageReader hands over; invoice_text and invoice_files put it on paper. Called by
// invoice_command.
//
// All money is rounded once: the total is rate x time the process held the machine, rounded to the
// nano-dollar, and the lines are its exact parts rounded so that they add up to it.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/civil_time.h"
#include "absl/time/time.h"
#include "scheduler/rate_card.h"
#include "service/rate_cards.h"
#include "service/reference_price.h"
#include "service/usage_reader.h"

namespace tuppence {

// How time that no request used is shared out on the `allocation` basis: among the tenants and
// models of the same day, by what they used or evenly, or not at all.
enum class Allocation { kProportional, kEven, kNone };

struct InvoiceOptions {
  std::vector<std::string> stores;
  absl::TimeZone time_zone = absl::UTCTimeZone();
  UtcWindow window;
  Allocation allocation = Allocation::kProportional;
  std::optional<ReferencePrice> reference;  // none: as the rows were told
  std::optional<RateCards> reprice;         // another view: these cards in place of the booked ones
};

// Accounts that no request pays on the `usage` basis.
enum class OtherAccount { kStartup, kIdle, kOverhead, kDrain, kUnrecorded, kUnaccounted };
constexpr int kOtherAccounts = 6;
extern const std::array<const char*, kOtherAccounts> kOtherAccountNames;

// Time and its price. Time without a known rate has no price: it is counted apart.
struct PricedTime {
  int64_t machine_ns = 0;
  int64_t unpriced_ns = 0;  // of machine_ns
  ExactMoney exact = 0;
  int64_t nanousd = 0;  // exact, rounded together with all others

  void Add(const RateCard& card, int64_t ns);
  void Add(const PricedTime& other);
  // None of it has a price, and it is some: what it cost is unknown, not nothing.
  bool unpriced() const { return machine_ns > 0 && unpriced_ns == machine_ns; }
};

struct InvoiceKey {
  absl::CivilDay day;
  std::string tenant;
  std::string model;

  bool operator<(const InvoiceKey& other) const {
    return std::tie(day, tenant, model) < std::tie(other.day, other.tenant, other.model);
  }
};

struct InvoiceLine {
  // Rows that ended on that day.
  int64_t requests = 0;
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t told_nanousd = 0;
  int64_t told_requests = 0;  // rows that were told a cost
  int64_t reference_nanousd = 0;
  int64_t reference_requests = 0;  // rows with a reference price
  // Time charged on that day.
  PricedTime usage;
  PricedTime written_off;    // of usage; its nanousd is the credit
  int64_t allocated_ns = 0;  // a share of the other accounts
  int64_t allocated_nanousd = 0;

  int64_t allocation_nanousd() const { return usage.nanousd + allocated_nanousd; }
  // Some answer was told a cost, or none could have been told one.
  bool told() const { return told_requests > 0 || (requests == 0 && !usage.unpriced()); }
};

// A day of one model's machines.
struct MachineDayKey {
  absl::CivilDay day;
  std::string model;

  bool operator<(const MachineDayKey& other) const {
    return std::tie(day, model) < std::tie(other.day, other.model);
  }
};

struct MachineDay {
  std::array<PricedTime, kOtherAccounts> accounts;
  int64_t unallocated_ns = 0;  // nobody was there to take it, or --allocate=none
  int64_t unallocated_nanousd = 0;

  PricedTime all() const;  // what the day's tenants share, or nobody takes
};

// From what callers were told to the price of what they used:
//   told + open + written_off + lost - unrecorded - not_booked + rounding + other = usage
struct Reconciliation {
  int64_t told_nanousd = 0;
  int64_t open_nanousd = 0;         // work in the window told after it, less what was told in it
  int64_t written_off_nanousd = 0;  // told as 0, by our own fault
  int64_t lost_nanousd = 0;         // ended while no row could be stored
  int64_t unrecorded_nanousd = 0;   // told, and booked to the unrecorded account
  int64_t not_booked_nanousd = 0;   // told after a process's last period: killed, or still running
  int64_t rounding_nanousd = 0;     // each answer's cost is rounded to a whole nano-dollar
  int64_t other_nanousd = 0;        // rows no longer kept, rates that changed at the window's edge
};

struct Invoice {
  InvoiceOptions options;
  std::map<InvoiceKey, InvoiceLine> lines;
  std::map<MachineDayKey, MachineDay> machine_days;
  Reconciliation reconciliation;

  InvoiceLine tenants;                              // all lines
  std::array<PricedTime, kOtherAccounts> accounts;  // all machine days
  int64_t unallocated_ns = 0;
  int64_t unallocated_nanousd = 0;
  PricedTime machine;         // everything: the time the processes held the machines
  int64_t down_ns = 0;        // between two processes of one boot; not held, not in `machine`
  int64_t not_booked_ns = 0;  // of processes that still run: since their last period; comes later
  int64_t runs = 0;           // processes in the window
  int64_t periods = 0;
  int64_t removed_rows = 0;                // by retention, over all stores
  std::vector<std::string> rate_cards;     // ids, in the order they were met
  std::vector<std::string> reference_ids;  // of the rows, where options.reference is none

  bool priced() const { return machine.unpriced_ns < machine.machine_ns || machine.exact > 0; }
  // The reference price less the whole machine's. Requires: priced, and rows with a reference.
  int64_t saving_nanousd() const { return tenants.reference_nanousd - machine.nanousd; }
  // So many requests of this mix, in this time, would have made the reference cost what the
  // machine did; none where the reference is free.
  std::optional<int64_t> break_even_requests() const;
};

// Reads every store once. Errors name the store.
absl::StatusOr<Invoice> MakeInvoice(const InvoiceOptions& options);

// "2026-11-01" (the day's first moment in that zone) or a time with offset, "2026-11-01T12:00:00Z".
absl::StatusOr<int64_t> ParseInvoiceTime(const std::string& text, absl::TimeZone time_zone);

}  // namespace tuppence
