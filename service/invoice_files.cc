// CSV, JSON and FOCUS of invoice_format.h.
#include <limits>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "service/csv_table.h"
#include "service/invoice_format.h"
#include "service/money.h"

namespace tuppence {
namespace {

using Json = nlohmann::ordered_json;

std::string CsvRow(const std::vector<std::string>& cells) {
  return absl::StrCat(
      absl::StrJoin(cells, ",",
                    [](std::string* out, const std::string& cell) { out->append(CsvCell(cell)); }),
      "\n");
}

// Money of that time, or none where no rate is known: never zero.
std::optional<int64_t> Money(const PricedTime& time, int64_t nanousd) {
  return time.unpriced() ? std::nullopt : std::optional(nanousd);
}

std::optional<int64_t> Credit(const InvoiceLine& line) {
  return Money(line.written_off.machine_ns > 0 ? line.written_off : line.usage,
               -line.written_off.nanousd);
}

std::optional<int64_t> Told(const InvoiceLine& line) {
  return line.told() ? std::optional(line.told_nanousd) : std::nullopt;
}

std::optional<int64_t> Reference(const InvoiceLine& line) {
  return line.reference_requests > 0 ? std::optional(line.reference_nanousd) : std::nullopt;
}

std::string Cell(std::optional<int64_t> nanousd) {
  return nanousd.has_value() ? absl::StrCat(*nanousd) : "";
}

Json OrNull(std::optional<int64_t> nanousd) {
  return nanousd.has_value() ? Json(*nanousd) : Json();
}

Json LineJson(const InvoiceLine& line) {
  Json json = {{"requests", line.requests},
               {"prompt_tokens", line.prompt_tokens},
               {"cached_tokens", line.cached_tokens},
               {"completion_tokens", line.completion_tokens},
               {"machine_ns", line.usage.machine_ns},
               {"unpriced_ns", line.usage.unpriced_ns},
               {"usage_nanousd", OrNull(Money(line.usage, line.usage.nanousd))},
               {"allocated_ns", line.allocated_ns},
               {"allocation_nanousd", OrNull(Money(line.usage, line.allocation_nanousd()))},
               {"written_off_ns", line.written_off.machine_ns},
               {"credit_nanousd", OrNull(Credit(line))},
               {"told_nanousd", OrNull(Told(line))}};
  json["reference_requests"] = line.reference_requests;
  json["reference_nanousd"] = OrNull(Reference(line));
  return json;
}

Json AccountsJson(const std::array<PricedTime, kOtherAccounts>& accounts) {
  Json json = Json::object();
  for (int i = 0; i < kOtherAccounts; ++i) {
    json[kOtherAccountNames[i]] = {
        {"machine_ns", accounts[i].machine_ns},
        {"cost_nanousd", OrNull(Money(accounts[i], accounts[i].nanousd))}};
  }
  return json;
}

Json ReferenceJson(const Invoice& invoice) {
  const InvoiceLine& sum = invoice.tenants;
  if (sum.reference_requests == 0) return nullptr;
  Json json = {{"requests", sum.reference_requests}, {"nanousd", sum.reference_nanousd}};
  if (invoice.options.reference.has_value()) {
    const ReferencePrice& price = *invoice.options.reference;
    json["id"] = price.id();
    json["model"] = price.model;
    json["source"] = price.source;
    json["date"] = price.date;
    json["tokens_ratio_ppm"] = price.tokens_ratio_ppm;
    json["adjusted"] = price.adjusted;
  } else {
    json["id"] = absl::StrJoin(invoice.reference_ids, ", ");
  }
  json["saving_nanousd"] = invoice.priced() ? Json(invoice.saving_nanousd()) : Json();
  const std::optional<int64_t> even = invoice.break_even_requests();
  json["break_even_requests"] = even.has_value() && invoice.priced() ? Json(*even) : Json();
  return json;
}

Json ReconciliationJson(const Reconciliation& lines) {
  return {{"told_nanousd", lines.told_nanousd},
          {"open_nanousd", lines.open_nanousd},
          {"written_off_nanousd", lines.written_off_nanousd},
          {"lost_nanousd", lines.lost_nanousd},
          {"unrecorded_nanousd", lines.unrecorded_nanousd},
          {"not_booked_nanousd", lines.not_booked_nanousd},
          {"rounding_nanousd", lines.rounding_nanousd},
          {"other_nanousd", lines.other_nanousd}};
}

Json TotalJson(const Invoice& invoice) {
  Json json = LineJson(invoice.tenants);
  json["runs"] = invoice.runs;
  json["periods"] = invoice.periods;
  json["accounts"] = AccountsJson(invoice.accounts);
  json["unallocated_ns"] = invoice.unallocated_ns;
  json["unallocated_nanousd"] = OrNull(Money(invoice.machine, invoice.unallocated_nanousd));
  json["held_ns"] = invoice.machine.machine_ns;
  json["held_unpriced_ns"] = invoice.machine.unpriced_ns;
  json["cost_nanousd"] = OrNull(Money(invoice.machine, invoice.machine.nanousd));
  json["down_ns"] = invoice.down_ns;
  json["not_booked_ns"] = invoice.not_booked_ns;
  json["removed_rows"] = invoice.removed_rows;
  return json;
}

// FOCUS wants times in UTC.
std::string UtcStart(absl::CivilSecond second, absl::TimeZone zone) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::FromCivil(second, zone), absl::UTCTimeZone());
}

constexpr char kFocusHeader[] =
    "BilledCost,BillingAccountId,BillingAccountName,BillingCurrency,BillingPeriodEnd,"
    "BillingPeriodStart,ChargeCategory,ChargeClass,ChargeDescription,ChargeFrequency,"
    "ChargePeriodEnd,ChargePeriodStart,ConsumedQuantity,ConsumedUnit,ContractedCost,"
    "EffectiveCost,InvoiceIssuerName,ListCost,PricingQuantity,PricingUnit,ProviderName,"
    "PublisherName,ResourceId,ResourceName,ResourceType,ServiceCategory,ServiceName,SkuId,"
    "SubAccountId,SubAccountName,Tags,x_UsageCost,x_Requests,x_PromptTokens,x_CachedTokens,"
    "x_CompletionTokens\n";

struct FocusCharge {
  absl::CivilDay day;
  std::string tenant;
  std::string model;
  std::string category;  // Usage or Credit
  std::string description;
  int64_t machine_ns = 0;
  int64_t cost_nanousd = 0;
  int64_t usage_nanousd = 0;
  const InvoiceLine* counts = nullptr;
};

std::string FocusRow(const Invoice& invoice, const FocusCharge& charge) {
  const absl::TimeZone zone = invoice.options.time_zone;
  const absl::CivilMonth month(charge.day);
  const std::string cost = FormatUsd(charge.cost_nanousd);
  // FOCUS wants quantities of usage, with nine decimals as for money, and none of a credit.
  const bool usage = charge.category == "Usage";
  const std::string seconds = usage ? FormatUsd(charge.machine_ns) : "";
  const std::string unit = usage ? "machine-seconds" : "";
  const std::string tags = nlohmann::json({{"tenant", charge.tenant}, {"model", charge.model}})
                               .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  const auto count = [&](int64_t InvoiceLine::*value) {
    return absl::StrCat(charge.counts != nullptr ? charge.counts->*value : 0);
  };
  return CsvRow({cost,
                 "tuppence",
                 "Tuppence",
                 "USD",
                 UtcStart(absl::CivilSecond(month + 1), zone),
                 UtcStart(absl::CivilSecond(month), zone),
                 charge.category,
                 "",
                 charge.description,
                 "Usage-Based",
                 UtcStart(absl::CivilSecond(charge.day + 1), zone),
                 UtcStart(absl::CivilSecond(charge.day), zone),
                 seconds,
                 unit,
                 cost,
                 cost,
                 "Tuppence",
                 cost,
                 seconds,
                 unit,
                 "Tuppence",
                 "Tuppence",
                 charge.model,
                 charge.model,
                 "Model",
                 "AI and Machine Learning",
                 "Tuppence",
                 charge.model,
                 charge.tenant,
                 charge.tenant,
                 tags,
                 FormatUsd(charge.usage_nanousd),
                 count(&InvoiceLine::requests),
                 count(&InvoiceLine::prompt_tokens),
                 count(&InvoiceLine::cached_tokens),
                 count(&InvoiceLine::completion_tokens)});
}

}  // namespace

std::string FormatInvoiceCsv(const Invoice& invoice) {
  std::string csv =
      "day,tenant,model,account,requests,prompt_tokens,cached_tokens,completion_tokens,"
      "machine_ns,usage_nanousd,allocation_nanousd,credit_nanousd,told_nanousd,"
      "reference_nanousd\n";
  for (const auto& [key, line] : invoice.lines) {
    csv += CsvRow({FormatDay(key.day), key.tenant, key.model, "request",
                   absl::StrCat(line.requests), absl::StrCat(line.prompt_tokens),
                   absl::StrCat(line.cached_tokens), absl::StrCat(line.completion_tokens),
                   absl::StrCat(line.usage.machine_ns), Cell(Money(line.usage, line.usage.nanousd)),
                   Cell(Money(line.usage, line.allocation_nanousd())), Cell(Credit(line)),
                   Cell(Told(line)), Cell(Reference(line))});
  }
  for (const auto& [key, day] : invoice.machine_days) {
    const bool taken = day.unallocated_ns == 0 && day.unallocated_nanousd == 0;
    for (int i = 0; i < kOtherAccounts; ++i) {
      const PricedTime& account = day.accounts[i];
      if (account.machine_ns == 0) continue;
      csv += CsvRow({FormatDay(key.day), "", key.model, kOtherAccountNames[i], "", "", "", "",
                     absl::StrCat(account.machine_ns), Cell(Money(account, account.nanousd)),
                     Cell(Money(account, taken ? 0 : account.nanousd)), "", "", ""});
    }
  }
  return csv;
}

std::string FormatInvoiceJson(const Invoice& invoice) {
  const InvoiceOptions& options = invoice.options;
  Json json;
  json["view"] = options.reprice.has_value() ? "repriced" : "booked";
  json["stores"] = options.stores;
  json["time_zone"] = options.time_zone.name();
  const auto time = [&](int64_t utc_ns, int64_t none) {
    return utc_ns == none ? Json() : Json(FormatTime(utc_ns, options.time_zone));
  };
  json["from"] = time(options.window.from_ns, std::numeric_limits<int64_t>::min());
  json["to"] = time(options.window.to_ns, std::numeric_limits<int64_t>::max());
  json["allocate"] = AllocationName(options.allocation);
  json["rate_cards"] = invoice.rate_cards;
  json["lines"] = Json::array();
  for (const auto& [key, line] : invoice.lines) {
    Json entry = {{"day", FormatDay(key.day)}, {"tenant", key.tenant}, {"model", key.model}};
    entry.update(LineJson(line));
    json["lines"].push_back(std::move(entry));
  }
  json["machine_days"] = Json::array();
  for (const auto& [key, day] : invoice.machine_days) {
    json["machine_days"].push_back(
        {{"day", FormatDay(key.day)},
         {"model", key.model},
         {"accounts", AccountsJson(day.accounts)},
         {"unallocated_ns", day.unallocated_ns},
         {"unallocated_nanousd", OrNull(Money(day.all(), day.unallocated_nanousd))}});
  }
  json["total"] = TotalJson(invoice);
  const bool told = invoice.priced() && !options.reprice.has_value();
  json["told"] = told ? ReconciliationJson(invoice.reconciliation) : Json();
  json["reference"] = ReferenceJson(invoice);
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

absl::StatusOr<std::string> FormatInvoiceFocus(const Invoice& invoice) {
  if (invoice.machine.unpriced_ns > 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "--format focus-csv: ", FormatUsd(invoice.machine.unpriced_ns),
        " s of this time have no rate card, "
        "and FOCUS has no cost that is unknown; use --reprice CARDS, or another format"));
  }
  std::string csv = kFocusHeader;
  for (const auto& [key, line] : invoice.lines) {
    FocusCharge charge = {.day = key.day,
                          .tenant = key.tenant,
                          .model = key.model,
                          .category = "Usage",
                          .description = "Answers, with a share of idle time and overhead",
                          .machine_ns = line.usage.machine_ns + line.allocated_ns,
                          .cost_nanousd = line.allocation_nanousd(),
                          .usage_nanousd = line.usage.nanousd,
                          .counts = &line};
    csv += FocusRow(invoice, charge);
    if (line.written_off.nanousd == 0) continue;
    charge.category = "Credit";
    charge.description = "Written off: answers that failed by the service's own fault";
    charge.machine_ns = 0;
    charge.cost_nanousd = charge.usage_nanousd = -line.written_off.nanousd;
    charge.counts = nullptr;
    csv += FocusRow(invoice, charge);
  }
  for (const auto& [key, day] : invoice.machine_days) {
    if (day.unallocated_ns == 0) continue;
    csv += FocusRow(invoice, {.day = key.day,
                              .tenant = "",
                              .model = key.model,
                              .category = "Usage",
                              .description = "Machine time in no tenant's allocation",
                              .machine_ns = day.unallocated_ns,
                              .cost_nanousd = day.unallocated_nanousd,
                              .usage_nanousd = day.unallocated_nanousd,
                              .counts = nullptr});
  }
  return csv;
}

}  // namespace tuppence
