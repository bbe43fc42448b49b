// CallRegistry: the Generate calls that are open, so that a caller who has stopped reading can be
// cut off: its write never completes, and only cancelling the call ends it. Calls enter and leave
// by themselves; the server's watch thread sweeps. Any thread.
#pragma once

#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"

namespace tuppence {

class WatchedCall {
 public:
  virtual ~WatchedCall() = default;
  // When the write in flight began (monotonic); 0 when none is.
  virtual int64_t writing_since_ns() const = 0;
  // Ends the call; at most a few times. Must not call the registry back.
  virtual void CutOff() = 0;
};

class CallRegistry {
 public:
  void Add(WatchedCall* call) {
    absl::MutexLock lock(&mutex_);
    calls_.insert(call);
  }
  // After this no sweep touches the call.
  void Remove(WatchedCall* call) {
    absl::MutexLock lock(&mutex_);
    calls_.erase(call);
  }
  // Cuts off each call whose write began before `before_ns`; returns how many.
  int64_t CutOffWritesBefore(int64_t before_ns) {
    absl::MutexLock lock(&mutex_);
    int64_t count = 0;
    for (WatchedCall* call : calls_) {
      const int64_t since = call->writing_since_ns();
      if (since == 0 || since >= before_ns) continue;
      call->CutOff();
      ++count;
    }
    return count;
  }
  int64_t size() const {
    absl::MutexLock lock(&mutex_);
    return static_cast<int64_t>(calls_.size());
  }

 private:
  mutable absl::Mutex mutex_;
  absl::flat_hash_set<WatchedCall*> calls_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tuppence
