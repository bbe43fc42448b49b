#include "service/rate_cards.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "model/strict_json.h"
#include "service/deploy_tables.h"
#include "service/money.h"

namespace tuppence {
namespace {

using Json = nlohmann::json;

constexpr int kMicroDecimals = 6;
constexpr size_t kIdBytesMax = 64;
constexpr int64_t kMicroUsdPerHourMax = 1'000'000'000'000;  // a million USD; keeps sums in 128 bits
constexpr size_t kCardsMax = 10'000;

absl::Status Wrong(const std::string& where, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
}

absl::StatusOr<std::string> TextAt(const Json& object, const char* key, const std::string& where) {
  if (!object.contains(key) || !object[key].is_string() || object[key].get<std::string>().empty()) {
    return Wrong(where, absl::StrCat("needs \"", key, "\", a text"));
  }
  return object[key].get<std::string>();
}

// A price, as text or as a number; JSON's shortest form of a number is the decimal that was
// written, so that nothing is lost by its way through a double.
absl::StatusOr<int64_t> MicroUsd(const Json& value, const std::string& where) {
  if (!value.is_string() && !value.is_number()) {
    return Wrong(where, "must be a number of USD such as \"0.526\"");
  }
  const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
  const absl::StatusOr<int64_t> micro = ParseDecimal(text, kMicroDecimals);
  if (!micro.ok()) {
    return Wrong(where, absl::StrCat(micro.status().message(),
                                     "; a rate is a whole number of micro-dollars an hour"));
  }
  if (*micro < 0 || *micro > kMicroUsdPerHourMax) {
    return Wrong(where, absl::StrCat(text, " is out of range; 0 to 1000000 USD are allowed"));
  }
  return *micro;
}

absl::StatusOr<int64_t> PriceOf(const Json& card, const std::string& where) {
  const bool whole = card.contains("usd_per_hour");
  if (whole == card.contains("components")) {
    return Wrong(where, "needs either \"usd_per_hour\" or \"components\", whose sum it then is");
  }
  if (whole) return MicroUsd(card["usd_per_hour"], absl::StrCat(where, ".usd_per_hour"));
  if (!card["components"].is_object() || card["components"].empty()) {
    return Wrong(where, "\"components\" must name at least one, as {\"machine\": \"0.40\"}");
  }
  int64_t sum = 0;
  for (const auto& [name, value] : card["components"].items()) {
    const auto part = MicroUsd(value, absl::StrCat(where, ".components.", name));
    if (!part.ok()) return part.status();
    sum += *part;
    if (sum > kMicroUsdPerHourMax) {
      return Wrong(where, "the components add up to more than 1000000 USD");
    }
  }
  return sum;
}

absl::StatusOr<int64_t> TimeAt(const Json& card, const char* key, const std::string& where) {
  const absl::StatusOr<std::string> text = TextAt(card, key, where);
  if (!text.ok()) return text.status();
  absl::Time time;
  std::string error;
  if (!absl::ParseTime(absl::RFC3339_full, *text, &time, &error)) {
    return Wrong(where, absl::StrCat("\"", key, "\" is \"", *text,
                                     "\"; it needs date, time and offset, as "
                                     "2026-11-01T00:00:00+01:00"));
  }
  return absl::ToUnixNanos(time);
}

std::string ShowTime(int64_t utc_ns) {
  return absl::FormatTime(absl::RFC3339_sec, absl::FromUnixNanos(utc_ns), absl::UTCTimeZone());
}

struct Entry {
  RateCard card;
  std::optional<int64_t> valid_to_utc_ns;
};

absl::StatusOr<Entry> ReadCard(const Json& json, const std::string& where) {
  absl::Status keys =
      CheckKeys(json, where,
                {"id", "valid_from", "valid_to", "usd_per_hour", "components", "source", "note"});
  if (!keys.ok()) return keys;
  Entry entry;
  absl::StatusOr<std::string> id = TextAt(json, "id", where);
  if (!id.ok()) return id.status();
  if (id->size() > kIdBytesMax) {
    return Wrong(where, absl::StrCat("the id has ", id->size(), " bytes; at most ", kIdBytesMax));
  }
  entry.card.id = *std::move(id);
  const std::string named = absl::StrCat("rate card \"", entry.card.id, "\"");
  const absl::StatusOr<std::string> source = TextAt(json, "source", named);
  if (!source.ok()) return source.status();
  if (*source != "list" && *source != "effective" && *source != "spot") {
    return Wrong(named, absl::StrCat("source is \"", *source, "\"; list, effective or spot"));
  }
  entry.card.source = *source;
  const absl::StatusOr<int64_t> from = TimeAt(json, "valid_from", named);
  if (!from.ok()) return from.status();
  entry.card.valid_from_utc_ns = *from;
  if (json.contains("valid_to")) {
    const absl::StatusOr<int64_t> to = TimeAt(json, "valid_to", named);
    if (!to.ok()) return to.status();
    if (*to <= *from) return Wrong(named, "valid_to is not after valid_from");
    entry.valid_to_utc_ns = *to;
  }
  const absl::StatusOr<int64_t> price = PriceOf(json, named);
  if (!price.ok()) return price.status();
  entry.card.micro_usd_per_hour = *price;
  return entry;
}

absl::Status CheckSeam(const Entry& card, const Entry& next) {
  const std::string both =
      absl::StrCat("rate cards \"", card.card.id, "\" and \"", next.card.id, "\"");
  const int64_t begins = next.card.valid_from_utc_ns;
  if (begins == card.card.valid_from_utc_ns) {
    return Wrong(both, absl::StrCat("overlap: both are valid from ", ShowTime(begins)));
  }
  if (!card.valid_to_utc_ns.has_value() || *card.valid_to_utc_ns == begins) {
    return absl::OkStatus();
  }
  return Wrong(both, absl::StrCat(*card.valid_to_utc_ns > begins ? "overlap" : "leave a gap",
                                  ": the first ends at ", ShowTime(*card.valid_to_utc_ns),
                                  ", the second begins at ", ShowTime(begins),
                                  "; leave valid_to out, or let it be the next one's valid_from"));
}

}  // namespace

RateCards::RateCards(RateCard card) { cards_.push_back(std::move(card)); }

absl::StatusOr<RateCards> RateCards::Parse(const std::string& text) {
  const absl::StatusOr<Json> json = ParseStrictJson(text);
  if (!json.ok()) return json.status();
  absl::Status keys = CheckKeys(*json, "the file", {"rate_cards", "note"});
  if (!keys.ok()) return keys;
  if (!json->contains("rate_cards") || !(*json)["rate_cards"].is_array() ||
      (*json)["rate_cards"].empty()) {
    return Wrong("the file", "needs \"rate_cards\", a list of at least one card");
  }
  const Json& list = (*json)["rate_cards"];
  if (list.size() > kCardsMax) {
    return Wrong("rate_cards", absl::StrCat("there are ", list.size(), "; at most ", kCardsMax));
  }
  std::vector<Entry> entries;
  std::set<std::string> ids;
  for (size_t i = 0; i < list.size(); ++i) {
    absl::StatusOr<Entry> entry = ReadCard(list[i], absl::StrCat("rate_cards[", i, "]"));
    if (!entry.ok()) return entry.status();
    if (!ids.insert(entry->card.id).second) {
      return Wrong(absl::StrCat("rate_cards[", i, "]"),
                   absl::StrCat("the id \"", entry->card.id, "\" stands twice"));
    }
    entries.push_back(*std::move(entry));
  }
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return a.card.valid_from_utc_ns < b.card.valid_from_utc_ns;
  });
  RateCards cards;
  for (size_t i = 0; i < entries.size(); ++i) {
    if (i > 0) {
      if (absl::Status seam = CheckSeam(entries[i - 1], entries[i]); !seam.ok()) return seam;
    }
    cards.cards_.push_back(entries[i].card);
  }
  cards.end_utc_ns_ = entries.back().valid_to_utc_ns.value_or(std::numeric_limits<int64_t>::max());
  return cards;
}

absl::StatusOr<RateCards> RateCards::Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return absl::NotFoundError(
        absl::StrCat("rate cards ", path, ": cannot be read; check the path and its permissions"));
  }
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  absl::StatusOr<RateCards> cards = Parse(text);
  if (!cards.ok()) {
    return absl::Status(cards.status().code(),
                        absl::StrCat("rate cards ", path, ": ", cards.status().message()));
  }
  return cards;
}

RateCard RateCards::At(int64_t utc_ns) const {
  if (utc_ns >= end_utc_ns_) return {};
  const auto after = std::upper_bound(
      cards_.begin(), cards_.end(), utc_ns,
      [](int64_t time, const RateCard& card) { return time < card.valid_from_utc_ns; });
  return after == cards_.begin() ? RateCard{} : *(after - 1);
}

int64_t RateCards::NextChange(int64_t utc_ns) const {
  for (const RateCard& card : cards_) {
    if (card.valid_from_utc_ns > utc_ns) return card.valid_from_utc_ns;
  }
  return utc_ns < end_utc_ns_ ? end_utc_ns_ : std::numeric_limits<int64_t>::max();
}

absl::Status RateCards::CheckReplaces(const RateCards& before, int64_t utc_ns) const {
  for (const RateCard& old : before.cards_) {
    if (old.valid_from_utc_ns > utc_ns) continue;
    for (const RateCard& card : cards_) {
      if (card.id == old.id && (card.micro_usd_per_hour != old.micro_usd_per_hour ||
                                card.valid_from_utc_ns != old.valid_from_utc_ns)) {
        return absl::FailedPreconditionError(absl::StrCat(
            "rate card \"", old.id, "\" has been in force since ", ShowTime(old.valid_from_utc_ns),
            " and cannot change; add a card with another id, valid from now on"));
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<RateCard> MachineCard(const std::string& machine) {
  const Json table = Json::parse(kMachinePricesJson);
  std::vector<std::string> names;
  for (const Json& row : table["machines"]) {
    names.push_back(row["machine"].get<std::string>());
    if (names.back() != machine) continue;
    RateCard card;
    card.id = absl::StrCat(names.back(), "-", row["kind"].get<std::string>(), "-",
                           row["date"].get<std::string>());
    card.source = row["kind"].get<std::string>();
    const absl::StatusOr<int64_t> price = MicroUsd(row["usd_per_hour"], names.back());
    if (!price.ok()) return price.status();
    card.micro_usd_per_hour = *price;
    return card;
  }
  return absl::NotFoundError(absl::StrCat(
      "--machine ", machine, ": not in the table of public prices, which has ",
      absl::StrJoin(names, ", "), "; use --price-per-hour or --rate-cards for another"));
}

absl::StatusOr<int64_t> ParseMachineShare(const std::string& text) {
  const absl::StatusOr<int64_t> share = ParseDecimal(text, kMicroDecimals);
  if (!share.ok() || *share <= 0 || *share > kPpm) {
    return absl::InvalidArgumentError(
        absl::StrCat("--machine-share ", text,
                     ": must be above 0 and at most 1, with at most six decimals, as 0.25"));
  }
  return *share;
}

}  // namespace tuppence
