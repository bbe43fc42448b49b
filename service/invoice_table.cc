// The table of invoice_format.h.
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "service/invoice_format.h"
#include "service/money.h"
#include "service/text_table.h"

namespace tuppence {
namespace {

constexpr char kNoRate[] = "no rate card";

std::string Money(const PricedTime& time, int64_t nanousd) {
  if (time.unpriced()) return kNoRate;
  if (time.machine_ns == 0 && nanousd == 0) return "-";
  return FormatUsd(nanousd);
}

std::string WindowText(const Invoice& invoice) {
  const UtcWindow& window = invoice.options.window;
  const absl::TimeZone zone = invoice.options.time_zone;
  const bool from = window.from_ns != std::numeric_limits<int64_t>::min();
  const bool to = window.to_ns != std::numeric_limits<int64_t>::max();
  if (!from && !to) return "all that is booked";
  return absl::StrCat(from ? absl::StrCat("from ", FormatTime(window.from_ns, zone)) : "",
                      from && to ? " " : "",
                      to ? absl::StrCat("up to ", FormatTime(window.to_ns, zone)) : "");
}

std::string Heading(const Invoice& invoice) {
  std::string text =
      absl::StrCat("Invoice: ", WindowText(invoice), "; days of ", invoice.options.time_zone.name(),
                   "; ", absl::StrJoin(invoice.options.stores, ", "), "\n");
  if (invoice.options.reprice.has_value()) {
    absl::StrAppend(&text, "REPRICED: another view, at cards that were not booked. ",
                    "Nothing in the store has changed.\n");
  }
  absl::StrAppend(&text, "Rate cards: ",
                  invoice.rate_cards.empty() ? "none" : absl::StrJoin(invoice.rate_cards, ", "),
                  ". usage: what requests used; allocation: and a share of the rest (--allocate=",
                  AllocationName(invoice.options.allocation), ").\n\n");
  return text;
}

std::string LinesTable(const Invoice& invoice) {
  TextTable table;
  table.Column("day");
  table.Column("tenant");
  table.Column("model");
  for (const char* number : {"requests", "prompt", "cached", "completion", "machine s", "usage USD",
                             "credit USD", "allocation USD"}) {
    table.Column(number, /*right=*/true);
  }
  const auto row = [&](std::string day, std::string tenant, std::string model,
                       const InvoiceLine& line) {
    table.Row({std::move(day), std::move(tenant), std::move(model), WithCommas(line.requests),
               WithCommas(line.prompt_tokens), WithCommas(line.cached_tokens),
               WithCommas(line.completion_tokens), Seconds(line.usage.machine_ns),
               Money(line.usage, line.usage.nanousd),
               Money(line.written_off, -line.written_off.nanousd),
               Money(line.usage, line.allocation_nanousd())});
  };
  for (const auto& [key, line] : invoice.lines) {
    row(FormatDay(key.day), key.tenant, key.model, line);
  }
  table.Rule();
  row("all tenants", "", "", invoice.tenants);
  return table.Format();
}

std::string MachineTable(const Invoice& invoice) {
  TextTable table;
  table.Column("the machine's time");
  table.Column("machine s", /*right=*/true);
  table.Column("USD", /*right=*/true);
  const auto row = [&](const char* name, const PricedTime& time) {
    table.Row({name, Seconds(time.machine_ns), Money(time, time.nanousd)});
  };
  row("requests", invoice.tenants.usage);
  for (int i = 0; i < kOtherAccounts; ++i) {
    const bool always = i <= static_cast<int>(OtherAccount::kDrain);
    if (always || invoice.accounts[i].machine_ns > 0) {
      row(kOtherAccountNames[i], invoice.accounts[i]);
    }
  }
  table.Rule();
  row("total: rate x time held", invoice.machine);
  std::string text = table.Format();
  const auto note = [&](int64_t ns, const char* what) {
    if (ns > 0) absl::StrAppend(&text, Seconds(ns), " s ", what, "\n");
  };
  if (invoice.machine.unpriced_ns < invoice.machine.machine_ns) {
    note(invoice.machine.unpriced_ns, "of these have no rate card and no price in the sums above.");
  }
  note(invoice.down_ns, "between two processes of one boot were down: not held, not in the total.");
  note(invoice.not_booked_ns, "of running processes are not booked yet.");
  if (invoice.unallocated_ns > 0) {
    absl::StrAppend(
        &text, "Of the rest, ", Seconds(invoice.unallocated_ns), " s (",
        invoice.priced() ? absl::StrCat(FormatUsd(invoice.unallocated_nanousd), " USD") : kNoRate,
        ") are in no tenant's allocation",
        invoice.options.allocation == Allocation::kNone
            ? ".\n"
            : ": nobody asked anything on those days.\n");
  }
  return text;
}

std::string ReconciliationTable(const Invoice& invoice) {
  const Reconciliation& lines = invoice.reconciliation;
  TextTable table;
  table.Column("what callers were told");
  table.Column("USD", /*right=*/true);
  const auto row = [&](const char* name, int64_t nanousd, bool always) {
    if (always || nanousd != 0) table.Row({name, FormatUsd(nanousd)});
  };
  row("told on answers", lines.told_nanousd, true);
  row("open: used here, told in another window", lines.open_nanousd, false);
  row("written off: our own fault, or made again", lines.written_off_nanousd, false);
  row("lost: ended while nothing could be stored", lines.lost_nanousd, false);
  row("told, and booked as unrecorded", -lines.unrecorded_nanousd, false);
  row("told after a process's last period", -lines.not_booked_nanousd, false);
  row("rounding", lines.rounding_nanousd, true);
  row("rows no longer kept, or rates that changed", lines.other_nanousd, false);
  table.Rule();
  row("usage, as above", invoice.tenants.usage.nanousd, true);
  std::string text = table.Format();
  if (invoice.removed_rows > 0) {
    absl::StrAppend(&text, WithCommas(invoice.removed_rows),
                    " request rows are no longer kept; periods are, and the totals come from "
                    "them.\n");
  }
  return text;
}

std::string ReferenceText(const Invoice& invoice) {
  const InvoiceLine& sum = invoice.tenants;
  if (sum.reference_requests == 0) return "";
  const std::optional<ReferencePrice>& price = invoice.options.reference;
  std::string text = absl::StrCat(
      "Reference ", price.has_value() ? price->id() : absl::StrJoin(invoice.reference_ids, ", "));
  if (price.has_value()) {
    absl::StrAppend(&text, " (", price->model, "; ",
                    price->adjusted
                        ? absl::StrCat(FormatUsdShort(price->tokens_ratio_ppm * 1000),
                                       " of our tokens for one of ", price->tokenizer, "'s")
                        : "its tokens counted as ours: unadjusted",
                    ")");
  }
  absl::StrAppend(&text, ": ", FormatUsd(sum.reference_nanousd), " USD for ",
                  WithCommas(sum.reference_requests), " of ", WithCommas(sum.requests),
                  " requests.\n");
  if (!invoice.priced()) return text + "Saving: no rate card, so nothing to compare it with.\n";
  const int64_t saving = invoice.saving_nanousd();
  absl::StrAppend(&text,
                  saving >= 0 ? "Saved against it, the whole machine counted: "
                              : "The API would have been cheaper by ",
                  FormatUsd(std::abs(saving)), " USD",
                  saving >= 0 ? ".\n" : ", the whole machine counted.\n");
  if (const auto even = invoice.break_even_requests(); even.has_value()) {
    absl::StrAppend(&text, "Break-even: ", WithCommas(*even),
                    " requests of this mix in this time; there were ",
                    WithCommas(sum.reference_requests), ".\n");
  }
  return text;
}

}  // namespace

std::string FormatDay(absl::CivilDay day) { return absl::FormatCivilTime(day); }

std::string FormatTime(int64_t utc_ns, absl::TimeZone time_zone) {
  return absl::FormatTime(absl::RFC3339_sec, absl::FromUnixNanos(utc_ns), time_zone);
}

const char* AllocationName(Allocation allocation) {
  switch (allocation) {
    case Allocation::kProportional:
      return "proportional";
    case Allocation::kEven:
      return "even";
    case Allocation::kNone:
      return "none";
  }
  return "";
}

std::string FormatInvoiceTable(const Invoice& invoice) {
  // A process that never lived to its first period held the machine all the same.
  const bool held = invoice.machine.machine_ns > 0 || invoice.not_booked_ns > 0;
  if (!held && invoice.down_ns == 0 && invoice.tenants.requests == 0) {
    return absl::StrCat(Heading(invoice), "Nothing is booked in this time.\n");
  }
  std::string text =
      absl::StrCat(Heading(invoice), LinesTable(invoice), "\n", MachineTable(invoice));
  if (invoice.priced() && !invoice.options.reprice.has_value()) {
    absl::StrAppend(&text, "\n", ReconciliationTable(invoice));
  }
  const std::string reference = ReferenceText(invoice);
  if (!reference.empty()) absl::StrAppend(&text, "\n", reference);
  return text;
}

}  // namespace tuppence
