#include "service/readiness.h"

#include "absl/strings/str_cat.h"

namespace tuppence {

Readiness JudgeReadiness(const EngineSnapshot& engine, int64_t now_ns, int64_t stall_ns) {
  Readiness verdict;
  if (engine.failed) {
    verdict.live = false;
    verdict.reason = "the engine has failed; the process must be restarted";
    return verdict;
  }
  const int64_t silent_ns = now_ns - engine.last_progress_ns;
  if (silent_ns > stall_ns) {
    verdict.live = false;
    verdict.reason = absl::StrCat("the engine has shown no progress for ", silent_ns / 1'000'000,
                                  " ms; at most ", stall_ns / 1'000'000, " ms are allowed");
    return verdict;
  }
  if (engine.draining) {
    verdict.reason = "the service is draining and takes no new requests";
    return verdict;
  }
  verdict.ready = true;
  return verdict;
}

}  // namespace tuppence
