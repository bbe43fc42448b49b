// InvoiceDays: the day of a moment in a time zone, quickly for moments near each other. Used by the
// invoice, for every row.
#pragma once

#include <cstdint>

#include "absl/time/civil_time.h"
#include "absl/time/time.h"

namespace tuppence {

class InvoiceDays {
 public:
  explicit InvoiceDays(absl::TimeZone time_zone) : time_zone_(time_zone) {}

  absl::CivilDay DayOf(int64_t utc_ns) {
    if (utc_ns < from_ns_ || utc_ns >= to_ns_) {
      day_ = absl::CivilDay(time_zone_.At(absl::FromUnixNanos(utc_ns)).cs);
      from_ns_ = absl::ToUnixNanos(absl::FromCivil(day_, time_zone_));
      to_ns_ = absl::ToUnixNanos(absl::FromCivil(day_ + 1, time_zone_));
    }
    return day_;
  }

 private:
  const absl::TimeZone time_zone_;
  absl::CivilDay day_;
  int64_t from_ns_ = 0;
  int64_t to_ns_ = 0;
};

}  // namespace tuppence
