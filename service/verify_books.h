// `tuppence ledger verify`: computes every sum of a usage store again and names the first row that
// does not agree. Called by books_commands.
//
//   a run      its periods follow each other without gap or overlap, from its start
//   a period   its accounts add up to its time, its tenants' charges to its request account
//   a tenant   charged so far = rows of ended requests + what open ones were charged + what ended
//              unrecorded, at the end of every period
//   a request  its parts add up to its time; its cost is its time at the card it was used under
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tuppence {

struct VerifiedBooks {
  int64_t runs = 0;
  int64_t periods = 0;
  int64_t requests = 0;
  int64_t held_ns = 0;         // of all periods
  int64_t unaccounted_ns = 0;  // of processes that were killed, after their last period
  int64_t removed_rows = 0;    // by retention: periods that long ago have no rows to agree with
};

// DATA_LOSS names the first row that does not agree, what it says and what it should say. Other
// errors: the store could not be read.
absl::StatusOr<VerifiedBooks> VerifyBooks(const std::string& path);

}  // namespace tuppence
