// What must hold of an engine after each of its steps, whatever happened before.
#pragma once

#include <cstdint>

#include "scheduler/admission.h"
#include "scheduler/engine.h"
#include "tests/scheduler/simulation/scenario.h"

namespace tuppence::simulation {

// Blocks: used, cached and free ones are all; each is referred to as often as it is held; none is
// shared across tenants or rope regimes.
void CheckBlocks(const Engine& engine);
// Places, queues and preemptions stay within their limits.
void CheckCaps(const Engine& engine, const AdmissionControl& admission, const Scenario& scenario);
// Each nanosecond is booked once; ended requests have no more than was booked to requests.
void CheckBooks(const Engine& engine, int64_t now_ns);

}  // namespace tuppence::simulation
