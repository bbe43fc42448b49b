#include "service/reference_price.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/civil_time.h"
#include "model/strict_json.h"
#include "service/deploy_tables.h"
#include "service/money.h"

namespace tuppence {
namespace {

using Json = nlohmann::json;

constexpr int kMicroDecimals = 6;
constexpr int64_t kMicroUsdMax = 100'000'000'000;  // 100,000 USD for a million tokens
constexpr int64_t kRatioPpmMin = 10'000;
constexpr int64_t kRatioPpmMax = 100'000'000;

absl::Status Wrong(const std::string& what) { return absl::InvalidArgumentError(what); }

absl::Status ReadText(const Json& json, const char* key, std::string* text) {
  if (!json.contains(key) || !json[key].is_string() || json[key].get<std::string>().empty()) {
    return Wrong(absl::StrCat("needs \"", key, "\", a text"));
  }
  *text = json[key].get<std::string>();
  return absl::OkStatus();
}

absl::Status ReadMicro(const Json& json, const char* key, int64_t least, int64_t most,
                       int64_t* micro) {
  if (!json.contains(key) || !(json[key].is_string() || json[key].is_number())) {
    return Wrong(absl::StrCat("needs \"", key, "\", a number such as \"0.15\""));
  }
  const std::string text = json[key].is_string() ? json[key].get<std::string>() : json[key].dump();
  const absl::StatusOr<int64_t> value = ParseDecimal(text, kMicroDecimals);
  if (!value.ok()) return Wrong(absl::StrCat(key, ": ", value.status().message()));
  if (*value < least || *value > most) {
    return Wrong(absl::StrCat(key, ": ", text, " is out of range; ", FormatUsdShort(least * 1000),
                              " to ", FormatUsdShort(most * 1000), " are allowed"));
  }
  *micro = *value;
  return absl::OkStatus();
}

absl::StatusOr<ReferencePrice> FromJson(const Json& json) {
  if (!json.is_object()) return Wrong("must be an object {...}");
  for (const auto& [key, value] : json.items()) {
    static const std::vector<std::string> kKnown = {
        "name", "model", "source", "date", "tokenizer", "tokens_ratio", "usd_per_million_tokens"};
    if (std::find(kKnown.begin(), kKnown.end(), key) == kKnown.end()) {
      return Wrong(absl::StrCat("\"", key, "\" is not known here; there may be ",
                                absl::StrJoin(kKnown, ", ")));
    }
  }
  ReferencePrice price;
  absl::Status status = ReadText(json, "name", &price.name);
  status.Update(ReadText(json, "model", &price.model));
  status.Update(ReadText(json, "source", &price.source));
  status.Update(ReadText(json, "date", &price.date));
  if (!status.ok()) return status;
  absl::CivilDay day;
  if (!absl::ParseCivilTime(price.date, &day)) {
    return Wrong(absl::StrCat("date is \"", price.date, "\"; it needs the form 2026-11-05"));
  }
  if (json.contains("tokenizer")) {
    if (status = ReadText(json, "tokenizer", &price.tokenizer); !status.ok()) return status;
  }
  if (json.contains("tokens_ratio")) {
    status = ReadMicro(json, "tokens_ratio", kRatioPpmMin, kRatioPpmMax, &price.tokens_ratio_ppm);
    if (!status.ok()) return status;
    price.adjusted = true;
  }
  if (!json.contains("usd_per_million_tokens") || !json["usd_per_million_tokens"].is_object()) {
    return Wrong(
        "needs \"usd_per_million_tokens\" with \"input\", \"cached_input\" and \"output\"");
  }
  const Json& prices = json["usd_per_million_tokens"];
  status = ReadMicro(prices, "input", 0, kMicroUsdMax, &price.input_micro_usd);
  status.Update(ReadMicro(prices, "cached_input", 0, kMicroUsdMax, &price.cached_input_micro_usd));
  status.Update(ReadMicro(prices, "output", 0, kMicroUsdMax, &price.output_micro_usd));
  if (!status.ok()) return status;
  return price;
}

}  // namespace

std::string ReferencePrice::id() const {
  return absl::StrCat(name, "@", date, adjusted ? "" : ",unadjusted");
}

int64_t ReferencePrice::NanoUsd(int64_t prompt_tokens, int64_t cached_tokens,
                                int64_t completion_tokens) const {
  // micro-USD for a million tokens is nano-USD for a thousand.
  const __int128 thousandths = __int128{prompt_tokens - cached_tokens} * input_micro_usd +
                               __int128{cached_tokens} * cached_input_micro_usd +
                               __int128{completion_tokens} * output_micro_usd;
  const __int128 divisor = __int128{1000} * tokens_ratio_ppm;
  return static_cast<int64_t>((thousandths * 1'000'000 + divisor / 2) / divisor);
}

absl::StatusOr<ReferencePrice> ParseReferencePrice(const std::string& text) {
  const absl::StatusOr<Json> json = ParseStrictJson(text);
  if (!json.ok()) return json.status();
  return FromJson(*json);
}

absl::StatusOr<ReferencePrice> FindReferencePrice(const std::string& name_or_path) {
  const Json table = Json::parse(kReferencePricesJson);
  std::vector<std::string> names;
  for (const Json& row : table["reference_prices"]) {
    names.push_back(row["name"].get<std::string>());
    if (names.back() == name_or_path) return FromJson(row);
  }
  std::ifstream file(name_or_path, std::ios::binary);
  if (!file) {
    return absl::NotFoundError(absl::StrCat(
        "--reference-price ", name_or_path, ": neither a name of the table, which has ",
        absl::StrJoin(names, ", "), ", nor a file that can be read"));
  }
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  absl::StatusOr<ReferencePrice> price = ParseReferencePrice(text);
  if (!price.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--reference-price ", name_or_path, ": ", price.status().message()));
  }
  return price;
}

}  // namespace tuppence
