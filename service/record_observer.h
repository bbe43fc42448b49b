// RecordObserver: whoever wants to see each step's record beside the store, as the metrics do.
// Called by the bookkeeper on the books' thread, never the engine's: prometheus-cpp takes one mutex
// for Observe and for Collect, and a scrape must hold up no step.
#pragma once

#include <cstdint>

#include "scheduler/step_records.h"

namespace tuppence {

class RecordObserver {
 public:
  virtual ~RecordObserver() = default;
  // Every record once, in order, whether or not its rows could be stored; before it is released.
  virtual void Observe(const StepRecord& record) = 0;
  // After each group commit that succeeded: how long it took and how many rows it made durable.
  virtual void ObserveCommit(int64_t commit_ns, int64_t rows) = 0;
  // As each closing message goes out: how long after the request's end.
  virtual void ObserveClosing(int64_t delay_ns) = 0;
};

}  // namespace tuppence
