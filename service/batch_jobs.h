// BatchJobs: the batches of /v1/batches, answered in the background by the runner of `tuppence
// batch`, in the class batch: they take what other callers leave. A few at once; the next is the
// oldest of the tenant that has the fewest at work. Every state is in the file store before anybody
// hears of it, and each answer before its line counts, so that a kill at any moment loses nothing:
// the next start goes on where the job was.
//
// A job ends completed (its refused lines counted), cancelled or expired, with what there is by
// then. When its results cannot be written, for want of room, it waits and tries again until it
// expires. Files go when their time is up, unless a batch at work reads them. Made by serve; asked
// by http_files. Any thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "service/batch_record.h"
#include "service/file_store.h"
#include "service/service_parts.h"

namespace tuppence {

class BatchOutput;
class BatchRunner;

struct BatchJobsOptions {
  int jobs_max = 4;                    // at work at once
  int lines_max = 16;                  // of each, in progress at once
  int64_t tenant_jobs_max = 100;       // a tenant's that have not ended
  int64_t window_seconds = 24 * 3600;  // a batch expires after it
  int64_t retry_ns = 10'000'000'000;   // after its results could not be written
};

struct BatchAskedFor {
  std::string input_file_id;
  std::string endpoint;
  nlohmann::ordered_json metadata;
  int64_t output_expires_seconds = 0;  // 0: as long as files stay
  MakingKey key = {};
};

struct MadeBatch {
  BatchRecord record;
  bool replayed = false;  // its key made it before
};

class BatchJobs {
 public:
  // Goes on with what the store has. `parts` and `files` outlive this; the engine runs.
  static absl::StatusOr<std::unique_ptr<BatchJobs>> Start(const BatchJobsOptions& options,
                                                          const ServiceParts& parts,
                                                          FileStore* files);
  ~BatchJobs();  // Stop and waits

  // INVALID_ARGUMENT: the tenant has no such input file. RESOURCE_EXHAUSTED: it has too many.
  // ALREADY_EXISTS: the key made another.
  absl::StatusOr<MadeBatch> Create(const std::string& tenant, const BatchAskedFor& asked);
  // NOT_FOUND where the tenant has no such batch.
  absl::StatusOr<BatchRecord> Find(const std::string& tenant, const std::string& id);
  absl::StatusOr<Page<BatchRecord>> List(const std::string& tenant, const PageAsk& ask);
  // No further lines; those in progress finish. FAILED_PRECONDITION where it has ended.
  absl::StatusOr<BatchRecord> Cancel(const std::string& tenant, const std::string& id);
  // The batch at work that reads the file; "": none.
  std::string ReaderOf(const std::string& file_id) const;

  // No further lines; what is at work finishes or is ended by the engine. The jobs go on with the
  // next start. Idempotent.
  void Stop();

 private:
  struct Job {
    BatchRecord record;
    std::shared_ptr<const BatchTotals> totals;  // of the run at hand; null before
    bool running = false;
    bool expired = false;  // its time is up
    bool cut_off = false;  // and lines were left then
    BatchRunner* runner = nullptr;
  };

  // A job's two files, and which lines they have.
  struct Results {
    std::unique_ptr<BatchOutput> answers, errors;
    absl::flat_hash_set<std::string> done;
    std::shared_ptr<BatchTotals> totals;
  };

  BatchJobs(const BatchJobsOptions& options, const ServiceParts& parts, FileStore* files)
      : options_(options), parts_(parts), files_(*files) {}

  int64_t Now() const;  // unix seconds
  absl::Status Restore();
  void Work();
  absl::StatusOr<std::unique_ptr<Job>> MakeJob(const std::string& tenant,
                                               const BatchAskedFor& asked) const;
  void Watch();
  void RemoveExpiredFiles();
  Job* NextJob() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RunJob(Job* job);
  absl::Status AskLines(Job* job, const BatchRecord& record);
  absl::Status WriteExpiredLines(const BatchRecord& record, Results* results);
  // What the job ends as, now that its run came to `asked`; none: it goes on later.
  std::optional<BatchStatus> EndOf(const Job& job, const absl::Status& asked) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // False: the store cannot be written now.
  bool Finish(Job* job, BatchStatus end, const std::string& failure);
  absl::StatusOr<Results> OpenResults(const BatchRecord& record) const;
  absl::Status Append(const std::string& line, BatchOutput* output);
  bool MustEnd(const Job& job) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Save(const Job& job, const MakingKey& key = {})
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  BatchRecord Shown(const Job& job) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // As it stands now; none: the tenant has no such batch at work.
  std::optional<BatchRecord> FindOpen(const std::string& tenant, const std::string& id) const;
  absl::Status NoSuchBatch(const std::string& id) const;

  const BatchJobsOptions options_;
  const ServiceParts& parts_;
  FileStore& files_;
  // One batch is made at a time, and no file that it reads goes meanwhile. Taken before the other.
  absl::Mutex making_mutex_;
  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  // Those that have not ended, by id. A job stays where it is until it has ended.
  std::map<std::string, std::unique_ptr<Job>> jobs_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> queue_ ABSL_GUARDED_BY(mutex_);  // of those, in the order they came
  std::vector<std::thread> threads_;
};

}  // namespace tuppence
