#include "service/planner/trace_file.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "model/strict_json.h"
#include "service/csv_table.h"
#include "service/planner/flag_file.h"
#include "service/tenants.h"

namespace tuppence {
namespace {

using Json = nlohmann::json;

constexpr int32_t kTokensMax = 1 << 24;
constexpr double kSecondsMax = 9e9;  // what nanoseconds in 64 bits hold

// What both forms come to, as text.
struct Fields {
  std::string arrival;
  std::string prompt_tokens;
  std::string completion_tokens;
  std::string tenant;
  std::string priority_class;
};

// Tenants' names become numbers, and times are brought to one beginning once all are there.
class TraceBuilder {
 public:
  absl::Status Add(const Fields& fields);
  absl::StatusOr<Traffic> Finish();

 private:
  Traffic traffic_;
  std::optional<bool> on_wall_;  // arrivals are times of day, not seconds
  absl::flat_hash_map<std::string, int32_t> tenants_;
};

absl::StatusOr<int64_t> ParseArrival(const std::string& text, bool* on_wall) {
  double seconds = 0;
  *on_wall = !absl::SimpleAtod(text, &seconds);
  if (!*on_wall && std::abs(seconds) < kSecondsMax) return std::llround(seconds * 1e9);
  absl::Time time;
  std::string error;
  if (*on_wall && absl::ParseTime(absl::RFC3339_full, text, &time, &error)) {
    return absl::ToUnixNanos(time);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("arrival is \"", text.substr(0, 40),
                   "\"; it needs seconds, as 12.5, or a time with offset, as "
                   "2026-11-24T10:00:00.25Z"));
}

absl::StatusOr<int32_t> ParseTokens(const char* name, const std::string& text) {
  int32_t tokens = 0;
  if (absl::SimpleAtoi(text, &tokens) && tokens >= 1 && tokens <= kTokensMax) return tokens;
  return absl::InvalidArgumentError(absl::StrCat(
      name, " is \"", text.substr(0, 40), "\"; it needs a whole number from 1 to ", kTokensMax));
}

absl::StatusOr<PriorityClass> ParseClass(const std::string& text) {
  for (const PriorityClass c :
       {PriorityClass::kInteractive, PriorityClass::kStandard, PriorityClass::kBatch}) {
    if (text == NameOf(c)) return c;
  }
  if (text.empty()) return PriorityClass::kStandard;
  return absl::InvalidArgumentError(absl::StrCat("priority_class is \"", text.substr(0, 40),
                                                 "\"; there are interactive, standard and batch"));
}

absl::Status TraceBuilder::Add(const Fields& fields) {
  bool on_wall = false;
  const absl::StatusOr<int64_t> at_ns = ParseArrival(fields.arrival, &on_wall);
  if (!at_ns.ok()) return at_ns.status();
  if (on_wall_.value_or(on_wall) != on_wall) {
    return absl::InvalidArgumentError(
        "arrival is a time here and seconds before, or the other way round; a trace has one form");
  }
  on_wall_ = on_wall;
  const absl::StatusOr<int32_t> prompt = ParseTokens("prompt_tokens", fields.prompt_tokens);
  if (!prompt.ok()) return prompt.status();
  const absl::StatusOr<int32_t> completion =
      ParseTokens("completion_tokens", fields.completion_tokens);
  if (!completion.ok()) return completion.status();
  const absl::StatusOr<PriorityClass> priority_class = ParseClass(fields.priority_class);
  if (!priority_class.ok()) return priority_class.status();
  if (static_cast<int64_t>(traffic_.arrivals.size()) == kArrivalsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("there are more than ", kArrivalsMax, " requests; plan with a part of them"));
  }
  const int32_t next = static_cast<int32_t>(tenants_.size());
  const int32_t tenant = tenants_.try_emplace(fields.tenant, next).first->second;
  traffic_.Add({*at_ns, *prompt, *completion, tenant, *priority_class});
  return absl::OkStatus();
}

absl::StatusOr<Traffic> TraceBuilder::Finish() {
  std::vector<Arrival>& arrivals = traffic_.arrivals;
  if (arrivals.empty()) return absl::InvalidArgumentError("has no request");
  std::stable_sort(arrivals.begin(), arrivals.end(),
                   [](const Arrival& a, const Arrival& b) { return a.at_ns < b.at_ns; });
  const int64_t begin_ns = arrivals.front().at_ns;
  for (Arrival& arrival : arrivals) arrival.at_ns -= begin_ns;
  traffic_.duration_ns = arrivals.back().at_ns;
  return std::move(traffic_);
}

absl::Status AddCsv(absl::string_view text, TraceBuilder* builder) {
  CsvTable table(text);
  absl::Status status = table.ReadHeading({"arrival", "prompt_tokens", "completion_tokens"},
                                          {"tenant", "priority_class"});
  if (!status.ok()) return status;
  while (true) {
    const absl::StatusOr<bool> more = table.Next();
    if (!more.ok()) return more.status();
    if (!*more) return absl::OkStatus();
    status = builder->Add({table.Cell("arrival"), table.Cell("prompt_tokens"),
                           table.Cell("completion_tokens"), table.Cell("tenant"),
                           table.Cell("priority_class")});
    if (!status.ok()) return WrongLine(table.line(), status.message());
  }
}

absl::StatusOr<Fields> FieldsOf(absl::string_view line) {
  const absl::StatusOr<Json> json = ParseStrictJson({line.data(), line.size()});
  if (!json.ok()) return json.status();
  absl::Status known = CheckKeys(
      *json, "", {"arrival", "prompt_tokens", "completion_tokens", "tenant", "priority_class"});
  if (!known.ok()) return known;
  const auto text = [&json](const char* key) -> std::string {
    if (!json->contains(key)) return "";
    const Json& value = (*json)[key];
    return value.is_string() ? value.get<std::string>() : value.dump();
  };
  return Fields{text("arrival"), text("prompt_tokens"), text("completion_tokens"), text("tenant"),
                text("priority_class")};
}

absl::Status AddJsonLines(absl::string_view left, TraceBuilder* builder) {
  for (int64_t number = 1; !left.empty(); ++number) {
    const size_t end = std::min(left.find('\n'), left.size());
    const absl::string_view line = absl::StripAsciiWhitespace(left.substr(0, end));
    left.remove_prefix(std::min(end + 1, left.size()));
    if (line.empty()) continue;
    const absl::StatusOr<Fields> fields = FieldsOf(line);
    const absl::Status status = fields.ok() ? builder->Add(*fields) : fields.status();
    if (!status.ok()) return WrongLine(number, status.message());
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Traffic> ParseTrace(const std::string& text) {
  TraceBuilder builder;
  const absl::string_view trace = absl::StripLeadingAsciiWhitespace(text);
  const bool is_json = !trace.empty() && trace.front() == '{';
  const absl::Status status = is_json ? AddJsonLines(text, &builder) : AddCsv(text, &builder);
  if (!status.ok()) return status;
  return builder.Finish();
}

absl::StatusOr<Traffic> ReadTrace(const std::string& path) {
  absl::StatusOr<Traffic> traffic = ReadFlagFile("--trace", path, ParseTrace);
  if (traffic.ok()) traffic->source = absl::StrCat("the trace ", path);
  return traffic;
}

const char kTraceHeading[] = "arrival,prompt_tokens,completion_tokens,tenant,priority_class\n";

std::string TraceLine(const RequestRow& row) {
  return absl::StrCat(
      absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", absl::FromUnixNanos(row.received_utc_ns),
                       absl::UTCTimeZone()),
      ",", row.usage.prompt_tokens, ",", row.usage.completion_tokens, ",", CsvCell(row.tenant), ",",
      NameOf(row.priority_class), "\n");
}

}  // namespace tuppence
