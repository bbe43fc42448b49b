// BatchRunner: asks the lines of a batch, a bounded number at once, and writes each answer before
// its place is taken by the next line. A line that the service turns away for now is tried again;
// one that it refuses for good becomes an error line; when nothing at all is answered for a while
// the job pauses, and nothing is written for the lines that are left.
//
// Exactly once: a line with an answer in the output is asked no more, and that answer's request is
// in the books once. Where the service dies behind the last token, the request is looked up in the
// books by its name (the job's id and the line's number) before it is asked again. What a kill of
// this program leaves between the last token and the disk, at most one answer for each line in
// progress, is asked again under that name, which is its idempotency key: the same answer, billed
// once. Only one that the service cannot make again, of another arithmetic say, is asked as new.
// Used by batch_command and batch_jobs.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "service/batch_asker.h"
#include "service/batch_input.h"
#include "service/batch_line.h"
#include "service/batch_totals.h"
#include "service/reference_price.h"

namespace tuppence {

struct BatchRunOptions {
  std::string job_id;  // by which requests are named
  int concurrency = 32;
  double patience_seconds = 300;            // without any answer; then the job pauses
  std::optional<ReferencePrice> reference;  // where the service has none
  BatchReading reading;
};

class BatchRunner {
 public:
  using MakeAsker = std::function<absl::StatusOr<std::unique_ptr<BatchAsker>>()>;
  // Brings a line to the disk; any thread. answered: otherwise it says why there is no answer.
  using Append = std::function<absl::Status(const std::string& line, bool answered)>;

  // make_asker: one for each line in progress. `totals` outlives this.
  BatchRunner(const BatchRunOptions& options, MakeAsker make_asker, Append append,
              BatchTotals* totals);

  // Asks every line of `input` whose key is not in `done`. OK once all have their answer or error
  // in the output. CANCELLED after Stop; otherwise why the job pauses.
  absl::Status Run(BatchInput* input, absl::flat_hash_set<std::string> done);
  // No new lines; those in progress finish. Any thread.
  void Stop();

  // The name by which a line is found again: its custom_id, or its number where it has none.
  static std::string KeyOf(const std::string& custom_id, int64_t line_number);
  // The same of a line of the output.
  static std::string KeyOfAnswer(const nlohmann::json& line);

 private:
  struct Written {
    std::string line;
    bool answered = false;
  };

  void Work(BatchAsker* asker);
  std::optional<BatchLine> NextLine();
  // The output's line; an error where the job pauses.
  absl::StatusOr<Written> Answer(const BatchLine& line, BatchAsker* asker);
  absl::Status Ask(const BatchAsk& ask, const std::string& name, BatchAsker* asker,
                   BatchAnswer* answer);
  // All of the answer came, but not that it was booked: OK where the books have it.
  absl::Status FindEnd(const absl::Status& why, const std::string& name, BatchAsker* asker,
                       BatchAnswer* answer);
  // Waits before another try. An error where it is time to give up.
  absl::Status WaitToTryAgain(const absl::Status& why, int tries);
  void Pause(const absl::Status& status);
  absl::Status paused() const;

  const BatchRunOptions options_;
  const MakeAsker make_asker_;
  const Append append_;
  BatchTotals* const totals_;

  mutable absl::Mutex mutex_;
  BatchInput* input_ ABSL_GUARDED_BY(mutex_) = nullptr;
  absl::flat_hash_set<std::string> done_ ABSL_GUARDED_BY(mutex_);
  absl::Status paused_ ABSL_GUARDED_BY(mutex_);
  absl::Time last_answer_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tuppence
