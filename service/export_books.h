// `tuppence store export`: what a usage store holds, one JSON object a line, for whatever keeps
// books elsewhere. Each line has an id that stays the same for ever, so that taking a time twice
// doubles nothing. Called by books_commands.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"

namespace tuppence {

// Periods that began and requests that ended at since_utc_ns or later; periods first, each with its
// run's machine and its tenants' charges. `write` takes a line, its end included; what it returns
// but OK ends the export and is returned.
absl::Status ExportBooks(const std::string& path, int64_t since_utc_ns,
                         const std::function<absl::Status(const std::string& line)>& write);

}  // namespace tuppence
