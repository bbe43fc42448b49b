// explain: what was booked for one request and why, in words. Used by GetUsage and by
// `tuppence explain`.
#pragma once

#include <cstdint>
#include <string>

#include "service/usage_reader.h"

namespace tuppence {

struct OpenCall;

// Some lines, each ended.
std::string Explain(const FoundRequest& found);
// Of a request that still runs, `age_ns` after it came.
std::string ExplainOpen(const OpenCall& call, int64_t age_ns);

}  // namespace tuppence
