// RateCards: what the machine costs an hour, from when to when. From --price-per-hour, from a
// --rate-cards file or from the table of public prices (--machine). The ledger books each period
// under the card in force; no card changes a period that is over.
//
// A file of cards is JSON:
//   {"rate_cards": [
//     {"id": "g4dn-2026-10", "valid_from": "2026-10-01T00:00:00+00:00", "source": "list",
//      "usd_per_hour": "0.526"},
//     {"id": "g4dn-2026-11", "valid_from": "2026-11-01T00:00:00+01:00", "source": "effective",
//      "components": {"machine": "0.421", "disk": "0.011"}}]}
// A card is valid until the next one begins; where it says valid_to, the next must begin there.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "scheduler/rate_card.h"

namespace tuppence {

class RateCards {
 public:
  // No card at all: machine time is counted, money says "no rate card".
  RateCards() = default;
  // One card for all time.
  explicit RateCards(RateCard card);

  // INVALID_ARGUMENT names the card and what is wrong with it: a gap, an overlap, a date without
  // offset, a price that is no whole number of micro-dollars.
  static absl::StatusOr<RateCards> Parse(const std::string& json);
  // NOT_FOUND where the file cannot be read.
  static absl::StatusOr<RateCards> Read(const std::string& path);

  // The card in force at that time; one that is not known() before the first card and after the
  // last one's end.
  RateCard At(int64_t utc_ns) const;
  // From when on another card than At(utc_ns) is in force; int64's maximum where none follows.
  int64_t NextChange(int64_t utc_ns) const;
  bool empty() const { return cards_.empty(); }
  const std::vector<RateCard>& cards() const { return cards_; }

  // Whether these may take the place of `before` at utc_ns: no card that was in force by then may
  // come again under its id with another price, for the periods booked under it stay as they are.
  absl::Status CheckReplaces(const RateCards& before, int64_t utc_ns) const;

 private:
  std::vector<RateCard> cards_;  // by valid_from_utc_ns
  int64_t end_utc_ns_ = std::numeric_limits<int64_t>::max();
};

// The public price of a machine by its name in deploy/machine_prices.json, as a card of all time.
// NOT_FOUND lists the names there are.
absl::StatusOr<RateCard> MachineCard(const std::string& machine);

// 0.25 -> 250,000. INVALID_ARGUMENT unless it is above 0, at most 1 and has at most six decimals.
absl::StatusOr<int64_t> ParseMachineShare(const std::string& text);

}  // namespace tuppence
