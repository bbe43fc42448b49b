// Mutex, MutexLock: std::mutex and its condition variable under Abseil's lock annotations.
// Why not absl::Mutex: Debian's libabsl is not built for ThreadSanitizer, which therefore does not
// see its locks and reports every hand-over as a race; pthread's it sees. Used wherever two threads
// meet.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "absl/base/thread_annotations.h"

namespace tuppence {

class ABSL_LOCKABLE Mutex {
 public:
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock(); }
  bool TryLock() ABSL_EXCLUSIVE_TRYLOCK_FUNCTION(true) { return mutex_.try_lock(); }

  // Waits, letting the lock go meanwhile, until holds() is true or the time is up. Whoever changes
  // what holds() reads calls Signal. Requires: the calling thread holds the lock.
  template <typename Condition>
  void Await(Condition holds) ABSL_EXCLUSIVE_LOCKS_REQUIRED(this) {
    std::unique_lock<std::mutex> lock(mutex_, std::adopt_lock);
    changed_.wait(lock, holds);
    lock.release();
  }
  template <typename Condition>
  void AwaitFor(int64_t timeout_ns, Condition holds) ABSL_EXCLUSIVE_LOCKS_REQUIRED(this) {
    std::unique_lock<std::mutex> lock(mutex_, std::adopt_lock);
    changed_.wait_for(lock, std::chrono::nanoseconds(timeout_ns), holds);
    lock.release();
  }
  void Signal() { changed_.notify_all(); }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
};

class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) {
    mutex_->Lock();
  }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mutex_->Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* const mutex_;
};

}  // namespace tuppence
