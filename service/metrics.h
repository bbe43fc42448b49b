// metrics: what /metrics says, from one table: name, help, type, and where the value is read. Reads
// snapshots and atomics only, so a scrape never holds up the engine. Called on the admin thread.
#pragma once

#include <string>

#include "service/service_parts.h"

namespace tuppence {

// In Prometheus's text format.
std::string FormatMetrics(const ServiceParts& parts);

}  // namespace tuppence
