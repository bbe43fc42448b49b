// Replica: one server in virtual time: the real admission, engine, scheduler, allocator, ledger and
// streams on a device that is a roofline. Given who calls when and for how much, it says what
// callers would see and where the machine's time would go. Used by the planner. Pure: the same
// options and arrivals come to the same result, on one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <queue>
#include <span>
#include <vector>

#include "scheduler/admission.h"
#include "scheduler/engine.h"
#include "scheduler/simulation/decode_leap.h"
#include "scheduler/simulation/histogram.h"
#include "scheduler/simulation/roofline_executor.h"
#include "scheduler/simulation/virtual_clock.h"

namespace tuppence {

// One call: when it comes, and for how much.
struct Arrival {
  int64_t at_ns = 0;
  int32_t prompt_tokens = 0;      // > 0
  int32_t completion_tokens = 0;  // > 0
  int32_t tenant = 0;
  PriorityClass priority_class = PriorityClass::kStandard;
};

struct ReplicaOptions {
  // Blocks, limits and times. `cost` is what a step takes; it is not refined.
  EngineOptions engine;
  AdmissionLimits admission;
  // Closed loop, above 0: so many callers, each of whom asks again once it has its answer; times of
  // arrival do not count then.
  int32_t callers = 0;
  // A closed loop's call comes so long after its caller's last answer has ended, and the callers'
  // first calls so far apart. Above 0: the engine's next step has begun by then, and whoever calls
  // waits for the one after it. 0: the queue never runs dry.
  int64_t call_ns = 0;
  bool leap = true;  // over runs of decode steps, to the same result
};

// What came of it.
struct ReplicaResult {
  Histogram time_to_first_token;
  Histogram inter_token;
  Histogram end_to_end;
  int64_t requests = 0;  // served to their end
  int64_t refused = 0;   // the queue was full, or it could never be served
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t preemptions = 0;
  int64_t steps = 0;
  int64_t steps_leapt = 0;  // of them
  int64_t blocks_used_max = 0;
  int64_t elapsed_ns = 0;  // from 0 to the last answer or the end of the time asked for
  AccountTotals accounts;  // they add up to elapsed_ns

  void Add(const ReplicaResult& other);  // of another replica over the same time
};

class Replica {
 public:
  // on_end sees the row of each request that ended, in order; may be empty.
  using OnEnd = std::function<void(const RequestRow&)>;
  explicit Replica(const ReplicaOptions& options, OnEnd on_end = nullptr);

  // Serves arrivals[first], arrivals[first + stride], ..., which are in order of time, and stays
  // until until_ns if it is done before. Once only.
  void Run(std::span<const Arrival> arrivals, size_t first, size_t stride, int64_t until_ns,
           ReplicaResult* result);

 private:
  void SubmitDue();
  void Submit(const Arrival& arrival, int64_t at_ns);
  void CallAgain();
  int64_t next_arrival_ns() const;
  void Take();
  void TakeRecord(const StepRecord& record);

  const ReplicaOptions options_;
  const OnEnd on_end_;
  VirtualClock clock_{0};
  RooflineExecutor device_;
  StepRecords records_;
  AdmissionControl admission_;
  Engine engine_;
  DecodeLeap leap_;

  std::span<const Arrival> arrivals_;
  size_t next_ = 0;
  size_t stride_ = 1;
  int64_t open_ = 0;
  // Closed loop: when each caller who waits for no answer calls.
  std::priority_queue<int64_t, std::vector<int64_t>, std::greater<>> calls_ns_;
  ReplicaResult* result_ = nullptr;
};

}  // namespace tuppence
