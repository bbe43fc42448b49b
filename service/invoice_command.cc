#include "service/invoice_command.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "service/bill.h"
#include "service/invoice.h"
#include "service/invoice_format.h"

namespace tuppence {
namespace {

enum class Form { kTable, kCsv, kJson, kFocusCsv };

struct Flags {
  std::vector<std::string> stores;
  std::string from;
  std::string to;
  std::string time_zone = "UTC";
  Allocation allocation = Allocation::kProportional;
  std::string reference;
  std::string reprice;
  std::string bill;
  std::string bill_rates;
  int64_t bill_minimum_seconds = 60;
  int64_t bill_increment_seconds = 1;
  Form form = Form::kTable;
};

absl::StatusOr<InvoiceOptions> OptionsOf(const Flags& flags) {
  InvoiceOptions options;
  options.stores = flags.stores;
  options.allocation = flags.allocation;
  if (!absl::LoadTimeZone(flags.time_zone, &options.time_zone)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--time-zone ", flags.time_zone,
                     ": not known; use a name of the IANA database, as Europe/Berlin (Debian "
                     "package tzdata)"));
  }
  for (const auto& [text, end, name] : {std::tuple{&flags.from, &options.window.from_ns, "--from"},
                                        std::tuple{&flags.to, &options.window.to_ns, "--to"}}) {
    if (text->empty()) continue;
    const absl::StatusOr<int64_t> time = ParseInvoiceTime(*text, options.time_zone);
    if (!time.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": ", time.status().message()));
    }
    *end = *time;
  }
  if (options.window.from_ns >= options.window.to_ns) {
    return absl::InvalidArgumentError(
        absl::StrCat("--from ", flags.from, " is not before --to ", flags.to,
                     "; --to is the first moment that no longer counts"));
  }
  if (!flags.reference.empty()) {
    absl::StatusOr<ReferencePrice> price = FindReferencePrice(flags.reference);
    if (!price.ok()) return price.status();
    options.reference = *std::move(price);
  }
  if (!flags.reprice.empty()) {
    absl::StatusOr<RateCards> cards = RateCards::Read(flags.reprice);
    if (!cards.ok()) return cards.status();
    options.reprice = *std::move(cards);
  }
  return options;
}

absl::StatusOr<std::string> MakeBillText(const Flags& flags) {
  BillOptions options;
  options.stores = flags.stores;
  options.minimum_ns = flags.bill_minimum_seconds * 1'000'000'000;
  options.increment_ns = flags.bill_increment_seconds * 1'000'000'000;
  absl::StatusOr<std::vector<BillLine>> lines = ReadBill(flags.bill);
  if (!lines.ok()) return lines.status();
  options.lines = *std::move(lines);
  if (!flags.bill_rates.empty()) {
    absl::StatusOr<RateCards> cards = RateCards::Read(flags.bill_rates);
    if (!cards.ok()) return cards.status();
    options.rates = *std::move(cards);
  }
  const absl::StatusOr<BillComparison> comparison = CompareBill(options);
  if (!comparison.ok()) return comparison.status();
  switch (flags.form) {
    case Form::kTable:
      return FormatBillTable(*comparison);
    case Form::kCsv:
      return FormatBillCsv(*comparison);
    case Form::kJson:
      return FormatBillJson(*comparison);
    case Form::kFocusCsv:
      break;
  }
  return absl::InvalidArgumentError(
      "--format focus-csv does not go with --bill; table, csv and json do");
}

absl::StatusOr<std::string> MakeText(const Flags& flags) {
  if (!flags.bill.empty()) return MakeBillText(flags);
  const absl::StatusOr<InvoiceOptions> options = OptionsOf(flags);
  if (!options.ok()) return options.status();
  const absl::StatusOr<Invoice> invoice = MakeInvoice(*options);
  if (!invoice.ok()) return invoice.status();
  switch (flags.form) {
    case Form::kTable:
      return FormatInvoiceTable(*invoice);
    case Form::kCsv:
      return FormatInvoiceCsv(*invoice);
    case Form::kJson:
      return FormatInvoiceJson(*invoice);
    case Form::kFocusCsv:
      return FormatInvoiceFocus(*invoice);
  }
  return absl::InternalError("no such form");
}

int RunInvoice(const Flags& flags) {
  const absl::StatusOr<std::string> text = MakeText(flags);
  if (!text.ok()) {
    std::fprintf(stderr, "error: %s\n", std::string(text.status().message()).c_str());
    return 1;
  }
  return std::fwrite(text->data(), 1, text->size(), stdout) == text->size() ? 0 : 1;
}

void AddFlags(CLI::App& command, Flags* flags) {
  command.add_option("store", flags->stores, "Usage stores, one or more")->required();
  command.add_option("--from", flags->from,
                     "First moment that counts: a day, as 2026-11-01, or a time with offset");
  command.add_option("--to", flags->to, "First moment that no longer counts, written the same way");
  command.add_option("--time-zone", flags->time_zone, "Whose days, a name of the IANA database")
      ->capture_default_str();
  const std::map<std::string, Allocation> allocations = {
      {"proportional", Allocation::kProportional},
      {"even", Allocation::kEven},
      {"none", Allocation::kNone}};
  command
      .add_option("--allocate", flags->allocation,
                  "How idle time and overhead of a day are shared among its tenants: in "
                  "proportion to what they used, evenly, or not at all")
      ->transform(CLI::CheckedTransformer(allocations).description("proportional|even|none"))
      ->default_str("proportional");
  command.add_option("--reference-price", flags->reference,
                     "Model API to compare with: a name of the table in deploy/ or a file; "
                     "without it what was told on the answers");
  command.add_option("--reprice", flags->reprice,
                     "Another view, marked as such: at these rate cards in place of the booked "
                     "ones. The store stays as it is");
  const std::map<std::string, Form> forms = {{"table", Form::kTable},
                                             {"csv", Form::kCsv},
                                             {"json", Form::kJson},
                                             {"focus-csv", Form::kFocusCsv}};
  command
      .add_option("--format", flags->form,
                  "A table for people; CSV or JSON, amounts in nano-dollars; CSV with FOCUS "
                  "columns, for cost tools")
      ->transform(CLI::CheckedTransformer(forms).description("table|csv|json|focus-csv"))
      ->default_str("table");
  command.add_option("--bill", flags->bill,
                     "Compare with the cloud's bill instead: CSV with the columns instance, "
                     "start, end, amount, and usd_per_hour where the bill names it");
  command.add_option("--bill-rates", flags->bill_rates,
                     "What the cloud's prices really were, as rate cards; without it and without "
                     "usd_per_hour the price is what the bill comes to");
  command
      .add_option("--bill-minimum-seconds", flags->bill_minimum_seconds,
                  "The least time that the cloud bills")
      ->check(CLI::Range(0, 86400))
      ->capture_default_str();
  command
      .add_option("--bill-increment-seconds", flags->bill_increment_seconds,
                  "The cloud rounds time up to a multiple of this")
      ->check(CLI::Range(1, 86400))
      ->capture_default_str();
}

}  // namespace

void AddInvoiceCommand(CLI::App& app, int* exit_code) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command =
      app.add_subcommand("invoice", "Who used the machine, and what it cost, from usage stores");
  command->footer(
      "Totals come from the periods, counts from the request rows. The total is the rate times\n"
      "the time the process held the machine, to the nano-dollar.\n\n"
      "  tuppence invoice usage.db --from 2026-11-01 --to 2026-12-01 --time-zone Europe/Berlin\n"
      "  tuppence invoice a.db b.db --reference-price gpt-4o-mini --format json\n"
      "  tuppence invoice a.db b.db --bill november.csv");
  AddFlags(*command, flags.get());
  command->callback([flags, exit_code] { *exit_code = RunInvoice(*flags); });
}

}  // namespace tuppence
