// Runs a load against a service and measures it. Calls are asynchronous (gRPC's callback reactors),
// so that a few threads hold thousands of streams. Used by serve_bench.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "bench/load.h"
#include "scheduler/simulation/histogram.h"

namespace tuppence {

// What came of a load. Filled by many threads.
struct LoadResult {
  // From when a request was due: an arrival that had to wait for us has waited for the service.
  Histogram time_to_first_token;
  Histogram end_to_end;
  Histogram inter_token;       // between two messages of an answer; one may carry several tokens
  Histogram per_output_token;  // (end - first token) / (tokens - 1), one for each request
  Histogram refusal;           // of calls that ended UNAVAILABLE or RESOURCE_EXHAUSTED, tokenless

  std::atomic<int64_t> completed = 0;
  std::atomic<int64_t> not_sent = 0;                 // outstanding_max was reached
  std::array<std::atomic<int64_t>, 17> errors = {};  // by gRPC code
  std::atomic<int64_t> prompt_tokens = 0;
  std::atomic<int64_t> completion_tokens = 0;
  std::atomic<int64_t> machine_ns = 0;
  std::atomic<int64_t> cost_nanousd = 0;
  std::atomic<int64_t> priced = 0;  // requests whose Cost had money
  std::atomic<int64_t> preemptions = 0;
  std::atomic<int64_t> streams_most = 0;  // open at the same time
  double wall_seconds = 0;
  double client_cpu_seconds = 0;  // what measuring took of a shared machine

  absl::Mutex mutex;
  std::string first_error ABSL_GUARDED_BY(mutex);

  int64_t errors_total() const;
};

// Warms up, runs the load, and returns when every call has ended.
absl::Status RunLoad(const TrafficOptions& options, int32_t vocab, LoadResult* result);

}  // namespace tuppence
