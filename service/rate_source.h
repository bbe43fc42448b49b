// RateSource: the rate cards of a running service, and which of them is in force. Made by serve
// from the options; reads the file again when asked to (SIGHUP) and keeps the old cards when the
// new ones are not right. Thread: the owner's.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "scheduler/rate_card.h"
#include "service/rate_cards.h"

namespace tuppence {

// At most one of the three names a price.
struct RateOptions {
  double price_per_hour = -1;  // USD; below 0: none
  std::string rate_card_id;    // of price_per_hour; "": named after the price
  std::string rate_cards;      // a file
  std::string machine;         // a name in the table of public prices
  std::string machine_share = "1";
};

class RateSource {
 public:
  // INVALID_ARGUMENT where two of the options name a price, the file is not right, or none of its
  // cards is valid at utc_ns.
  static absl::StatusOr<RateSource> Open(const RateOptions& options, int64_t utc_ns);

  // The card in force; not known() where no price was given.
  // Always with this process's share.
  RateCard At(int64_t utc_ns) const;
  // From when on it is another; int64's maximum where none follows.
  int64_t NextChange(int64_t utc_ns) const { return cards_.NextChange(utc_ns); }
  bool has_file() const { return !path_.empty(); }

  // Reads the file again. On an error the cards stay as they were. FAILED_PRECONDITION: there is
  // none, or it would change a card that has been in force.
  absl::Status Reload(int64_t utc_ns);

  // One line for the log.
  std::string Describe(int64_t utc_ns) const;

 private:
  absl::StatusOr<RateCards> ReadFile(int64_t utc_ns) const;

  std::string path_;  // "" without a file
  int64_t machine_share_ppm_ = kPpm;
  RateCards cards_;
};

}  // namespace tuppence
