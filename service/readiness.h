// Readiness: whether the service should get requests, judged by the engine's progress and not by
// its ports: an open port in front of a hung engine is how outages hide. Used by the gRPC health
// service and /readyz. Pure.
#pragma once

#include <cstdint>
#include <string>

#include "scheduler/engine.h"

namespace tuppence {

struct Readiness {
  bool ready = false;
  bool live = true;    // false: only a new process helps
  std::string reason;  // one sentence; "" when ready
};

// `stall_ns`: an engine that showed no progress for so long hangs. An idle one beats more often.
Readiness JudgeReadiness(const EngineSnapshot& engine, int64_t now_ns, int64_t stall_ns);

}  // namespace tuppence
