// Traces: one request a line, CSV with a heading or JSON lines, as `serve --write-trace` writes
// them (trace_writer) and `tuppence plan --trace` reads them:
//
//   arrival,prompt_tokens,completion_tokens,tenant,priority_class
//   2026-11-24T10:00:00.250000Z,312,57,shop,interactive
//   {"arrival": 0.25, "prompt_tokens": 312, "completion_tokens": 57, "tenant": "shop"}
//
// arrival is a time with offset, or seconds from any moment on; tenant and priority_class may be
// left out. Times, counts and names: never what was asked or answered.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "scheduler/step_records.h"
#include "service/planner/traffic.h"

namespace tuppence {

// The requests in order of time, the first at 0. INVALID_ARGUMENT names the line.
absl::StatusOr<Traffic> ParseTrace(const std::string& text);
// The same from a file.
absl::StatusOr<Traffic> ReadTrace(const std::string& path);

extern const char kTraceHeading[];  // with its line end
// The line of a request that ended. Requires: it had a token.
std::string TraceLine(const RequestRow& row);

}  // namespace tuppence
