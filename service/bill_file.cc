// Reading a bill and printing the comparison: the paper side of bill.h.
#include <fstream>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "service/bill.h"
#include "service/csv_table.h"
#include "service/invoice_format.h"
#include "service/money.h"
#include "service/text_table.h"

namespace tuppence {
namespace {

constexpr int kNanoDecimals = 9;
constexpr int kMicroDecimals = 6;

absl::StatusOr<BillLine> ReadLine(const CsvTable& table) {
  const int64_t line = table.line();
  BillLine bill;
  bill.instance = table.Cell("instance");
  if (bill.instance.empty()) return WrongLine(line, "names no instance");
  for (const auto& [name, time] :
       {std::pair{"start", &bill.start_utc_ns}, std::pair{"end", &bill.end_utc_ns}}) {
    absl::Time parsed;
    std::string error;
    if (!absl::ParseTime(absl::RFC3339_full, table.Cell(name), &parsed, &error)) {
      return WrongLine(line, absl::StrCat(name, " is \"", table.Cell(name),
                                          "\"; it needs date, time and offset, as "
                                          "2026-11-01T00:00:00Z"));
    }
    *time = absl::ToUnixNanos(parsed);
  }
  if (bill.end_utc_ns < bill.start_utc_ns) return WrongLine(line, "end is before start");
  const absl::StatusOr<int64_t> amount = ParseDecimal(table.Cell("amount"), kNanoDecimals);
  if (!amount.ok()) return WrongLine(line, absl::StrCat("amount: ", amount.status().message()));
  bill.amount_nanousd = *amount;
  if (const std::string& price = table.Cell("usd_per_hour"); !price.empty()) {
    const absl::StatusOr<int64_t> micro = ParseDecimal(price, kMicroDecimals);
    if (!micro.ok())
      return WrongLine(line, absl::StrCat("usd_per_hour: ", micro.status().message()));
    if (*micro < 0) return WrongLine(line, "usd_per_hour is negative");
    bill.micro_usd_per_hour = *micro;
  }
  return bill;
}

bool Shown(const BillMachine& machine, int cause) {
  const bool always = cause != static_cast<int>(BillCause::kOtherShare);
  return always || machine.cause_nanousd[cause] != 0;
}

std::string MoneyText(std::optional<int64_t> nanousd) {
  return nanousd.has_value() ? FormatUsd(*nanousd) : "no rate card";
}

void AddMachine(const BillMachine& machine, const std::string& name, TextTable* table) {
  table->Row({name, "booked", Seconds(machine.booked_ns), MoneyText(machine.booked_money())});
  for (int i = 0; i < kBillCauses; ++i) {
    if (!Shown(machine, i)) continue;
    table->Row({"", kBillCauseNames[i],
                machine.cause_ns[i] != 0 ? Seconds(machine.cause_ns[i]) : "",
                MoneyText(machine.cause_money(i))});
  }
  table->Row({"", "billed", Seconds(machine.billed_ns), FormatUsd(machine.billed_nanousd)});
}

nlohmann::ordered_json MoneyJson(std::optional<int64_t> nanousd) {
  return nanousd.has_value() ? nlohmann::ordered_json(*nanousd) : nlohmann::ordered_json();
}

nlohmann::ordered_json MachineJson(const BillMachine& machine) {
  nlohmann::ordered_json json = {{"instance", machine.instance},
                                 {"billed_nanousd", machine.billed_nanousd},
                                 {"billed_ns", machine.billed_ns},
                                 {"booked_nanousd", MoneyJson(machine.booked_money())},
                                 {"booked_ns", machine.booked_ns},
                                 {"unpriced_ns", machine.unpriced_ns},
                                 {"price_from_bill", machine.price_from_bill},
                                 {"has_store", machine.has_store}};
  for (int i = 0; i < kBillCauses; ++i) {
    json["causes"][kBillCauseNames[i]] = {{"ns", machine.cause_ns[i]},
                                          {"nanousd", MoneyJson(machine.cause_money(i))}};
  }
  return json;
}

}  // namespace

absl::StatusOr<std::vector<BillLine>> ParseBill(const std::string& csv) {
  CsvTable table(csv);
  absl::Status status = table.ReadHeading({"instance", "start", "end", "amount"});
  if (!status.ok()) return status;
  std::vector<BillLine> bill;
  while (true) {
    const absl::StatusOr<bool> more = table.Next();
    if (!more.ok()) return more.status();
    if (!*more) break;
    absl::StatusOr<BillLine> read = ReadLine(table);
    if (!read.ok()) return read.status();
    bill.push_back(*std::move(read));
  }
  if (bill.empty()) return absl::InvalidArgumentError("has no line below the heading");
  return bill;
}

absl::StatusOr<std::vector<BillLine>> ReadBill(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return absl::NotFoundError(
        absl::StrCat("--bill ", path, ": cannot be read; check the path and its permissions"));
  }
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  absl::StatusOr<std::vector<BillLine>> bill = ParseBill(text);
  if (!bill.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--bill ", path, ": ", bill.status().message()));
  }
  return bill;
}

std::string FormatBillTable(const BillComparison& comparison) {
  TextTable table;
  table.Column("machine");
  table.Column("cause");
  table.Column("s", /*right=*/true);
  table.Column("USD", /*right=*/true);
  std::string notes;
  for (const BillMachine& machine : comparison.machines) {
    AddMachine(machine, machine.instance, &table);
    table.Rule();
    if (!machine.has_store) {
      absl::StrAppend(&notes, machine.instance, ": none of the stores has a run of it.\n");
    } else if (machine.price_from_bill && machine.cause_nanousd[int(BillCause::kPrice)] != 0) {
      absl::StrAppend(&notes, machine.instance,
                      ": nothing names the cloud's price, so all that time does not explain is "
                      "taken for it; a column usd_per_hour or --bill-rates tells them apart.\n");
    }
    if (machine.unpriced_ns > 0) {
      absl::StrAppend(&notes, machine.instance, ": ", Seconds(machine.unpriced_ns),
                      " s are booked without a rate card.\n");
    }
  }
  AddMachine(comparison.total, "all machines", &table);
  return absl::StrCat("Booked, and why the bill says otherwise\n\n", table.Format(),
                      notes.empty() ? "" : "\n", notes);
}

std::string FormatBillCsv(const BillComparison& comparison) {
  std::string csv = "instance,cause,ns,nanousd\n";
  for (const BillMachine& machine : comparison.machines) {
    const auto row = [&](const char* cause, int64_t ns, std::optional<int64_t> nanousd) {
      absl::StrAppend(&csv, CsvCell(machine.instance), ",", CsvCell(cause), ",", ns, ",",
                      nanousd.has_value() ? absl::StrCat(*nanousd) : "", "\n");
    };
    row("booked", machine.booked_ns, machine.booked_money());
    for (int i = 0; i < kBillCauses; ++i) {
      row(kBillCauseNames[i], machine.cause_ns[i], machine.cause_money(i));
    }
    row("billed", machine.billed_ns, machine.billed_nanousd);
  }
  return csv;
}

std::string FormatBillJson(const BillComparison& comparison) {
  nlohmann::ordered_json json = {{"machines", nlohmann::ordered_json::array()}};
  for (const BillMachine& machine : comparison.machines) {
    json["machines"].push_back(MachineJson(machine));
  }
  json["total"] = MachineJson(comparison.total);
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace tuppence
