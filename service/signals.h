// Signals: turns SIGINT and SIGTERM into a count that the main thread waits on, SIGHUP into one
// that it looks at. Make it before any other thread, for threads inherit the mask that keeps the
// signals for this one. Used by serve.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace tuppence {

class Signals {
 public:
  Signals();
  ~Signals();

  // Waits until more than `seen` signals have come, or timeout_ns is over. Returns how many came.
  int WaitForMoreThan(int seen, int64_t timeout_ns);
  int count() const;
  // SIGHUPs so far: files of settings are to be read again.
  int hangups() const { return hangups_; }

  // While off, a signal ends the process at once with exit code 0: there is nothing to drain yet.
  void SetGraceful(bool graceful) { graceful_ = graceful; }

 private:
  void Run();

  std::atomic<bool> graceful_ = false;
  mutable absl::Mutex mutex_;
  int count_ ABSL_GUARDED_BY(mutex_) = 0;
  std::atomic<int> hangups_ = 0;
  std::atomic<bool> stopping_ = false;
  std::thread thread_;
};

}  // namespace tuppence
