// OpenCalls: how many calls of a load are open; the one thing that the starting thread waits for.
// Used by load_generator and http_load.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace tuppence {

class OpenCalls {
 public:
  // Waits until fewer than `limit` are open, then counts one more.
  void EnterBelow(int64_t limit) {
    absl::MutexLock lock(&mutex_);
    const auto below = [this, limit]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return open_ < limit; };
    mutex_.Await(absl::Condition(&below));
    Count();
  }
  bool TryEnterBelow(int64_t limit) {
    absl::MutexLock lock(&mutex_);
    if (open_ >= limit) return false;
    Count();
    return true;
  }
  void Leave() {
    absl::MutexLock lock(&mutex_);
    --open_;
  }
  void WaitForNone() {
    absl::MutexLock lock(&mutex_);
    const auto none = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return open_ == 0; };
    mutex_.Await(absl::Condition(&none));
  }
  int64_t most() {
    absl::MutexLock lock(&mutex_);
    return most_;
  }

 private:
  void Count() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { most_ = std::max(most_, ++open_); }

  absl::Mutex mutex_;
  int64_t open_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t most_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace tuppence
