// Inbox: the hand-over callers -> engine. Requests go in by any thread and come out on the
// engine's, in order; wake-ups tell the engine that a stream was cancelled or has room again.
// Bounded: a full inbox refuses, it never blocks a caller.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "scheduler/mutex.h"
#include "scheduler/request.h"

namespace tuppence {

class Inbox {
 public:
  Inbox(int32_t requests_max, int64_t retry_after_ms);

  // Any thread. UNAVAILABLE when closed (with the closing status) or full (QUEUE_FULL).
  absl::Status Submit(Request request);
  // Any thread: something about a request that the engine has already changed.
  void WakeForCancel();
  void WakeForRoom();
  void Wake();
  // Every later Submit gets this status. What is already inside stays.
  void Close(absl::Status status);

  // Engine only. Moves everything that has arrived into *requests, which must be empty.
  void Take(std::vector<Request>* requests);
  // Engine only. True once after one or more wake-ups of that kind.
  bool TakeCancelled() { return cancelled_.exchange(false, std::memory_order_acq_rel); }
  bool TakeRoom() { return room_.exchange(false, std::memory_order_acq_rel); }
  // Engine only. Returns when something arrived or woke it, or after timeout_ns of real time.
  // A wake-up that came since the last Wait ends this one at once: none is lost.
  void Wait(int64_t timeout_ns);

  bool closed() const;
  // Requests inside. Any thread.
  int64_t size() const;

 private:
  const int32_t requests_max_;
  const int64_t retry_after_ms_;
  std::atomic<bool> cancelled_ = false;
  std::atomic<bool> room_ = false;
  std::atomic<bool> arrived_ = false;  // a look without the lock, once per step
  mutable Mutex mutex_;
  std::vector<Request> requests_ ABSL_GUARDED_BY(mutex_);
  absl::Status closed_ ABSL_GUARDED_BY(mutex_);
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tuppence
