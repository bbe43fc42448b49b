// StoreLock: one process to a usage store, and its sign of life. Beside the store lies PATH.lock,
// held with flock, which ends with the process however it dies; its text names the holder and, ten
// times a second, the moment the holder last lived. That outlives kill -9 (the page cache keeps
// it), so that whoever opens the store next knows until when the one before held the machine. Made
// by UsageStore. Any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "scheduler/clock.h"

namespace tuppence {

// What the lock file says of a process.
struct SignOfLife {
  int64_t pid = 0;
  std::string run_id = {};
  int64_t alive_ns = 0;  // monotonic, of that process's boot
};

class StoreLock {
 public:
  // FAILED_PRECONDITION, naming the holder, where another process has it. The clock outlives it.
  static absl::StatusOr<std::unique_ptr<StoreLock>> Take(const std::string& store_path,
                                                         const Clock* clock);
  ~StoreLock();

  StoreLock(const StoreLock&) = delete;
  StoreLock& operator=(const StoreLock&) = delete;

  // The holder before us; run_id is "" where nobody is known.
  const SignOfLife& previous() const { return previous_; }
  // From now on the file names this run, and a thread keeps its sign of life.
  void StartSigns(const std::string& run_id);

 private:
  StoreLock(int file, const Clock* clock, SignOfLife previous);
  void Sign() const;
  void Run();

  const int file_;
  const Clock* const clock_;
  const SignOfLife previous_;
  std::string run_id_;
  absl::Mutex mutex_;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace tuppence
