#include "service/rate_source.h"

#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "service/money.h"

namespace tuppence {

absl::StatusOr<RateCards> RateSource::ReadFile(int64_t utc_ns) const {
  absl::StatusOr<RateCards> cards = RateCards::Read(path_);
  if (!cards.ok()) return cards;
  if (!cards->At(utc_ns).known()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "rate cards ", path_, ": leave a gap: none is valid now; the first is valid ", "from ",
        absl::FormatTime(absl::RFC3339_sec,
                         absl::FromUnixNanos(cards->cards()[0].valid_from_utc_ns),
                         absl::UTCTimeZone()),
        "; add the card of today"));
  }
  return cards;
}

absl::StatusOr<RateSource> RateSource::Open(const RateOptions& options, int64_t utc_ns) {
  RateSource source;
  const absl::StatusOr<int64_t> share = ParseMachineShare(options.machine_share);
  if (!share.ok()) return share.status();
  source.machine_share_ppm_ = *share;
  const bool price = options.price_per_hour >= 0;
  if (price + !options.rate_cards.empty() + !options.machine.empty() > 1) {
    return absl::InvalidArgumentError(
        "--price-per-hour, --rate-cards and --machine each say what the machine costs; use one");
  }
  if (price) {
    RateCard card;
    card.micro_usd_per_hour = std::llround(options.price_per_hour * 1e6);
    // The price is part of the name where the operator gave none: two prices are two cards.
    card.id = !options.rate_card_id.empty()
                  ? options.rate_card_id
                  : absl::StrCat("price-", FormatUsdShort(card.micro_usd_per_hour * 1000));
    card.source = "flag";
    source.cards_ = RateCards(std::move(card));
  } else if (!options.machine.empty()) {
    absl::StatusOr<RateCard> card = MachineCard(options.machine);
    if (!card.ok()) return card.status();
    source.cards_ = RateCards(*std::move(card));
  } else if (!options.rate_cards.empty()) {
    source.path_ = options.rate_cards;
    absl::StatusOr<RateCards> cards = source.ReadFile(utc_ns);
    if (!cards.ok()) return cards.status();
    source.cards_ = *std::move(cards);
  }
  return source;
}

RateCard RateSource::At(int64_t utc_ns) const {
  RateCard card = cards_.At(utc_ns);
  card.machine_share_ppm = machine_share_ppm_;
  return card;
}

absl::Status RateSource::Reload(int64_t utc_ns) {
  if (path_.empty()) {
    return absl::FailedPreconditionError(
        "there is no file of rate cards to read again; --rate-cards FILE names one");
  }
  absl::StatusOr<RateCards> cards = ReadFile(utc_ns);
  if (!cards.ok()) return cards.status();
  if (absl::Status replaces = cards->CheckReplaces(cards_, utc_ns); !replaces.ok()) {
    return absl::Status(replaces.code(),
                        absl::StrCat("rate cards ", path_, ": ", replaces.message()));
  }
  cards_ = *std::move(cards);
  return absl::OkStatus();
}

std::string RateSource::Describe(int64_t utc_ns) const {
  const RateCard card = At(utc_ns);
  if (!card.known()) {
    return "price: no rate card; answers carry machine time, --price-per-hour adds money";
  }
  std::string text = absl::StrCat("price: ", FormatUsdShort(card.micro_usd_per_hour * 1000),
                                  " USD an hour (rate card \"", card.id, "\", ", card.source, ")");
  if (card.machine_share_ppm != kPpm) {
    absl::StrAppend(&text, ", ", FormatUsdShort(card.machine_share_ppm * 1000), " of the machine");
  }
  if (const int64_t next = cards_.NextChange(utc_ns); next != std::numeric_limits<int64_t>::max()) {
    absl::StrAppend(
        &text, "; the next from ",
        absl::FormatTime(absl::RFC3339_sec, absl::FromUnixNanos(next), absl::UTCTimeZone()));
  }
  return text;
}

}  // namespace tuppence
