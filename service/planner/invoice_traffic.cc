#include "service/planner/invoice_traffic.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/civil_time.h"
#include "service/csv_table.h"
#include "service/money.h"
#include "service/planner/flag_file.h"

namespace tuppence {
namespace {

constexpr int kNanoDecimals = 9;
constexpr int64_t kHourNs = int64_t{3600} * 1'000'000'000;
constexpr int64_t kCountMax = int64_t{1} << 50;
constexpr DayShape kDay = {2, 1, 1, 1, 1, 2, 3, 5, 7, 8, 8, 8, 7, 7, 8, 8, 7, 6, 5, 4, 4, 3, 3, 2};

void Add(const InvoiceDay& day, InvoiceDay* sum) {
  sum->requests += day.requests;
  sum->input_tokens += day.input_tokens;
  sum->output_tokens += day.output_tokens;
}

absl::Status CheckDay(const InvoiceDay& day) {
  if (day.requests == 0 && day.input_tokens == 0 && day.output_tokens == 0) return absl::OkStatus();
  if (day.requests >= 1 && day.input_tokens >= day.requests && day.output_tokens >= day.requests) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("shows ", day.requests, " requests with ", day.input_tokens, " input and ",
                   day.output_tokens, " output tokens; each request has at least one of both"));
}

absl::StatusOr<InvoiceDay> ReadDay(const CsvTable& table) {
  InvoiceDay day;
  for (const auto& [name, count] :
       {std::pair{"requests", &day.requests}, std::pair{"input_tokens", &day.input_tokens},
        std::pair{"output_tokens", &day.output_tokens}}) {
    const std::string& text = table.Cell(name);
    if (absl::SimpleAtoi(text, count) && *count >= 0 && *count < kCountMax) continue;
    return WrongLine(table.line(), absl::StrCat(name, " is \"", text.substr(0, 40),
                                                "\"; it needs a whole number, without separators"));
  }
  if (absl::Status sound = CheckDay(day); !sound.ok()) {
    return WrongLine(table.line(), sound.message());
  }
  return day;
}

// Adds the line's amount. Either each line has one or none.
absl::Status ReadAmount(const CsvTable& table, bool first, ApiInvoice* invoice) {
  const std::string& text = table.Cell("amount");
  if (text.empty() != !invoice->amount_nanousd.has_value() && !first) {
    return WrongLine(
        table.line(),
        "amount is in some lines and not in others; give it in all of them or in none");
  }
  if (text.empty()) return absl::OkStatus();
  const absl::StatusOr<int64_t> amount = ParseDecimal(text, kNanoDecimals);
  if (!amount.ok()) {
    return WrongLine(table.line(), absl::StrCat("amount: ", amount.status().message()));
  }
  if (*amount < 0) return WrongLine(table.line(), "amount is negative");
  invoice->amount_nanousd = invoice->amount_nanousd.value_or(0) + *amount;
  return absl::OkStatus();
}

// Whole lengths whose mean is this.
LengthRange AroundMean(double mean) {
  const int32_t half = static_cast<int32_t>(mean / 2);
  const int32_t middle = std::max(1, static_cast<int32_t>(std::lround(mean)));
  return {std::max(1, middle - half), middle + std::min(half, middle - 1)};
}

}  // namespace

absl::StatusOr<ApiInvoice> ParseApiInvoice(const std::string& csv) {
  CsvTable table(csv);
  absl::Status status =
      table.ReadHeading({"day", "requests", "input_tokens", "output_tokens"}, {"amount"});
  if (!status.ok()) return status;
  ApiInvoice invoice;
  std::map<absl::CivilDay, InvoiceDay> days;
  while (true) {
    const absl::StatusOr<bool> more = table.Next();
    if (!more.ok()) return more.status();
    if (!*more) break;
    absl::CivilDay day;
    if (!absl::ParseCivilTime(table.Cell("day"), &day)) {
      return WrongLine(table.line(), absl::StrCat("day is \"", table.Cell("day").substr(0, 40),
                                                  "\"; it needs the form 2026-11-03"));
    }
    const absl::StatusOr<InvoiceDay> read = ReadDay(table);
    if (!read.ok()) return read.status();
    status = ReadAmount(table, days.empty(), &invoice);
    if (!status.ok()) return status;
    Add(*read, &days[day]);
    Add(*read, &invoice.total);
  }
  const auto busiest = std::max_element(days.begin(), days.end(), [](const auto& a, const auto& b) {
    return a.second.input_tokens + a.second.output_tokens <
           b.second.input_tokens + b.second.output_tokens;
  });
  if (busiest == days.end() || busiest->second.requests == 0) {
    return absl::InvalidArgumentError("has no day with requests below the heading");
  }
  // Days without a line had no requests and had machines all the same.
  invoice.days = static_cast<double>(days.rbegin()->first - days.begin()->first + 1);
  invoice.busiest = busiest->second;
  invoice.busiest_day = absl::FormatCivilTime(busiest->first);
  return invoice;
}

absl::StatusOr<ApiInvoice> ReadApiInvoice(const std::string& path) {
  return ReadFlagFile("--invoice", path, ParseApiInvoice);
}

absl::StatusOr<ApiInvoice> MonthInvoice(const InvoiceDay& month,
                                        std::optional<int64_t> amount_nanousd) {
  if (absl::Status sound = CheckDay(month); !sound.ok() || month.requests == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the month ", month.requests == 0 ? "needs --month-requests" : sound.message()));
  }
  const auto of_a_day = [](int64_t count) {
    return std::max<int64_t>(1, std::llround(static_cast<double>(count) / kMonthDays));
  };
  ApiInvoice invoice;
  invoice.days = kMonthDays;
  invoice.total = month;
  invoice.busiest = {of_a_day(month.requests), of_a_day(month.input_tokens),
                     of_a_day(month.output_tokens)};
  invoice.busiest_day = "a day of the month";
  invoice.amount_nanousd = amount_nanousd;
  return invoice;
}

absl::StatusOr<DayShape> ParseDayShape(const std::string& text) {
  DayShape shape;
  if (text == "day") return kDay;
  if (text == "flat") {
    shape.fill(1);
    return shape;
  }
  const std::vector<std::string> parts = absl::StrSplit(text, ',');
  double sum = 0;
  bool sound = parts.size() == shape.size();
  for (size_t i = 0; sound && i < shape.size(); ++i) {
    sound = absl::SimpleAtod(parts[i], &shape[i]) && shape[i] >= 0 && shape[i] < 1e9;
    sum += sound ? shape[i] : 0;
  }
  if (sound && sum > 0) return shape;
  return absl::InvalidArgumentError(absl::StrCat(
      "--day-shape is \"", text.substr(0, 80),
      "\"; it needs flat, day or 24 numbers with commas between, one for each hour, not all 0"));
}

absl::StatusOr<Traffic> BusiestDayTraffic(const ApiInvoice& invoice, const DayShape& shape,
                                          double tokens_ratio, uint64_t seed) {
  const InvoiceDay& day = invoice.busiest;
  if (day.requests > kArrivalsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(invoice.busiest_day, " has ", day.requests, " requests, more than the ",
                     kArrivalsMax, " that are planned with; split the invoice by application"));
  }
  const double requests = static_cast<double>(day.requests);
  LoadDraw lengths({.rate = 1,
                    .prompt = AroundMean(tokens_ratio * day.input_tokens / requests),
                    .completion = AroundMean(tokens_ratio * day.output_tokens / requests),
                    .seed = seed});
  // To a millionth of the day: what Apportion takes is whole numbers.
  std::array<int64_t, 24> weights;
  for (size_t hour = 0; hour < shape.size(); ++hour)
    weights[hour] = std::llround(shape[hour] * 1e6);
  const std::vector<int64_t> by_hour = Apportion(day.requests, weights);
  std::mt19937_64 times(seed + 2);
  std::vector<int64_t> at_ns;
  for (size_t hour = 0; hour < by_hour.size(); ++hour) {
    const int64_t begin_ns = static_cast<int64_t>(hour) * kHourNs;
    std::uniform_int_distribution<int64_t> within(begin_ns, begin_ns + kHourNs - 1);
    for (int64_t i = 0; i < by_hour[hour]; ++i) at_ns.push_back(within(times));
  }
  std::sort(at_ns.begin(), at_ns.end());
  Traffic traffic;
  for (const int64_t at : at_ns) {
    const int32_t prompt_tokens = lengths.PromptTokens();
    traffic.Add({.at_ns = at,
                 .prompt_tokens = prompt_tokens,
                 .completion_tokens = lengths.CompletionTokens()});
  }
  traffic.duration_ns = 24 * kHourNs;
  traffic.source =
      absl::StrCat(invoice.busiest_day, " of the invoice, ", day.requests, " requests");
  return traffic;
}

}  // namespace tuppence
