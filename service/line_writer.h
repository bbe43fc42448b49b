// LineWriter: lines to a file descriptor, written by a thread of its own and many at once: a call
// that ends hands its line over and goes on, whoever reads. Used by the request log, which under
// overload has a line for each refusal.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace tuppence {

class LineWriter {
 public:
  static constexpr size_t kWaitingBytesMax = 4 << 20;

  // `file` stays the caller's, and open.
  explicit LineWriter(int file);
  // Writes what waits, but for a reader that takes nothing it waits a second at most.
  ~LineWriter();

  // A line without its end, which is written some milliseconds later. Where nobody reads and
  // kWaitingBytesMax wait the line is dropped, and a line {"event":"lines_lost","lines":N} says
  // how many were once there is room. Any thread; never blocks on the file.
  void Write(std::string_view line) ABSL_LOCKS_EXCLUDED(mutex_);

  // Handed over and not yet taken by the thread that writes. Any thread.
  size_t waiting_bytes() const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return lines_.size();
  }

 private:
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);
  void WriteAll(std::string_view lines) ABSL_LOCKS_EXCLUDED(mutex_);
  bool IsStopping() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return stopping_; }
  bool HasWork() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return stopping_ || !lines_.empty(); }

  const int file_;
  mutable absl::Mutex mutex_;
  std::string lines_ ABSL_GUARDED_BY(mutex_);
  int64_t lost_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace tuppence
