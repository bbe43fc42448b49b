// status_page: what an operator wants to know first, as JSON at /status of the admin port: build,
// kernels, queue, running requests with their ages, KV pool, rate card, last step, books. Ids,
// tenants and counts; never what was asked or answered. `tuppence status` prints it.
#pragma once

#include <string>

#include "service/readiness.h"
#include "service/service_parts.h"

namespace tuppence {

// One object, ending in a newline. Requires: parts.metrics. Called on the admin thread.
std::string StatusJson(const ServiceParts& parts, const Readiness& readiness);

// The same object for people.
std::string FormatStatus(const std::string& json);

}  // namespace tuppence
