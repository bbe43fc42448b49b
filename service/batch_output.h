// BatchOutput: a batch's answers, one line each, that a kill at any moment leaves whole: a line is
// written in one piece and synced before it counts; what a kill tore off at the end is taken away
// at the next start. Beside PATH lies PATH.job with the job's id, by which requests are named, so
// that a run that goes on can tell its own. Used by batch_command
// and batch_jobs. Append: any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "nlohmann/json.hpp"

namespace tuppence {

class BatchOutput {
 public:
  // Begins a job, or goes on with the one whose answers `path` has: `done` is called for each line
  // that is there. input_path: it must be another file.
  // INVALID_ARGUMENT: the paths are no two files. FAILED_PRECONDITION: the file is there and no
  // job's, or another process is at work on it. DATA_LOSS: a line of it is no answer. UNAVAILABLE:
  // it cannot be written.
  static absl::StatusOr<std::unique_ptr<BatchOutput>> Open(
      const std::string& path, const std::string& input_path,
      const std::function<void(const nlohmann::json& line)>& done);
  // The same of a file that is this program's alone, as its store says: it needs no file beside it,
  // and job_id() is "".
  static absl::StatusOr<std::unique_ptr<BatchOutput>> Resume(
      const std::string& path, const std::function<void(const nlohmann::json& line)>& done);
  ~BatchOutput();

  BatchOutput(const BatchOutput&) = delete;
  BatchOutput& operator=(const BatchOutput&) = delete;

  // 16 hexadecimal digits, drawn when the job began.
  const std::string& job_id() const { return job_id_; }

  // Once it returns OK the line (without its end) is on the disk. After an error, which says what
  // to do, nothing of it is in the file, and the job should pause.
  absl::Status Append(const std::string& line);

 private:
  BatchOutput(std::string path, int file, const char* way_on)
      : path_(std::move(path)), file_(file), way_on_(way_on) {}
  static absl::StatusOr<std::unique_ptr<BatchOutput>> OpenFile(const std::string& path, int mode,
                                                               const char* way_on);

  absl::Status FindJob();
  absl::Status ReadDone(const std::function<void(const nlohmann::json& line)>& done);
  absl::Status Failure(const char* what) const;

  const std::string path_;
  const int file_;
  const char* const way_on_;  // after a failure, for whoever reads of it
  std::string job_id_;
  absl::Mutex mutex_;
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // of whole lines
};

}  // namespace tuppence
