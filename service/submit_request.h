// The one way from a door into the engine: holds the tenant's budget for the request and hands it
// over. Used by every call that generates. Any thread.
#pragma once

#include "absl/status/status.h"
#include "scheduler/request.h"
#include "service/service_parts.h"

namespace tuppence {

// As Engine::Submit; and RESOURCE_EXHAUSTED where the tenant's budget would be passed,
// FAILED_PRECONDITION where it has one and no rate is known. After an error nothing is held.
absl::Status SubmitRequest(const ServiceParts& parts, Request request);

}  // namespace tuppence
