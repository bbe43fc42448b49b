#include "service/batch_jobs.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "scheduler/clock.h"
#include "scheduler/refusal.h"
#include "service/batch_input.h"
#include "service/batch_output.h"
#include "service/batch_runner.h"
#include "service/direct_asker.h"
#include "service/rpc_status.h"
#include "service/tenants.h"

namespace tuppence {
namespace {

constexpr absl::Duration kWatchEvery = absl::Milliseconds(100);
constexpr int64_t kGraceNs = 600'000'000'000;  // for lines in progress when a batch expires
constexpr char kIdPrefix[] = "batch_";

std::string JobIdOf(const BatchRecord& record) { return record.id.substr(sizeof(kIdPrefix) - 1); }

StoredFile ResultFile(const BatchRecord& record, const std::string& id, const char* what,
                      const std::string& path, int64_t now, int64_t expires) {
  std::error_code error;
  const auto bytes = std::filesystem::file_size(path, error);
  return {.id = id,
          .tenant = record.tenant,
          .purpose = "batch_output",
          .filename = absl::StrCat(record.id, "_", what, ".jsonl"),
          .bytes = error ? 0 : static_cast<int64_t>(bytes),
          .created_unix_seconds = now,
          .expires_unix_seconds = expires};
}

}  // namespace

absl::StatusOr<std::unique_ptr<BatchJobs>> BatchJobs::Start(const BatchJobsOptions& options,
                                                            const ServiceParts& parts,
                                                            FileStore* files) {
  std::unique_ptr<BatchJobs> jobs(new BatchJobs(options, parts, files));
  if (absl::Status restored = jobs->Restore(); !restored.ok()) return restored;
  for (int i = 0; i < options.jobs_max; ++i) {
    jobs->threads_.emplace_back([raw = jobs.get()] { raw->Work(); });
  }
  jobs->threads_.emplace_back([raw = jobs.get()] { raw->Watch(); });
  return jobs;
}

BatchJobs::~BatchJobs() {
  Stop();
  for (std::thread& thread : threads_) thread.join();
}

void BatchJobs::Stop() {
  absl::MutexLock lock(&mutex_);
  stopping_ = true;
  for (const auto& [id, job] : jobs_) {
    if (job->runner != nullptr) job->runner->Stop();
  }
}

int64_t BatchJobs::Now() const { return parts_.clock->UtcNs() / 1'000'000'000; }

absl::Status BatchJobs::Restore() {
  const absl::StatusOr<std::vector<StoredBatch>> stored = files_.ActiveBatches();
  if (!stored.ok()) return stored.status();
  std::vector<std::string> known;
  absl::MutexLock lock(&mutex_);
  for (const StoredBatch& batch : *stored) {
    absl::StatusOr<BatchRecord> record = ParseBatch(batch.record);
    if (!record.ok()) return record.status();
    known.push_back(record->output_file_id);
    known.push_back(record->error_file_id);
    auto job = std::make_unique<Job>();
    job->record = *std::move(record);
    queue_.push_back(job->record.id);
    jobs_[job->record.id] = std::move(job);
  }
  return files_.Sweep(known);
}

absl::StatusOr<MadeBatch> BatchJobs::Create(const std::string& tenant, const BatchAskedFor& asked) {
  absl::MutexLock making(&making_mutex_);
  const auto before = files_.FindMadeBatch(tenant, asked.key);
  if (!before.ok()) return before.status();
  if (before->has_value()) {
    absl::StatusOr<BatchRecord> record = Find(tenant, (*before)->id);
    if (!record.ok()) return record.status();
    return MadeBatch{*std::move(record), /*replayed=*/true};
  }
  absl::StatusOr<std::unique_ptr<Job>> job = MakeJob(tenant, asked);
  if (!job.ok()) return job.status();
  absl::MutexLock lock(&mutex_);
  const int64_t open = std::count_if(jobs_.begin(), jobs_.end(), [&tenant](const auto& other) {
    return other.second->record.tenant == tenant;
  });
  if (open >= options_.tenant_jobs_max) {
    return RefusalStatus(
        absl::StatusCode::kResourceExhausted,
        absl::StrCat("this tenant has ", open, " batches that have not ended; ",
                     options_.tenant_jobs_max, " are allowed; wait for one, or cancel one"),
        Because(reason::kTooManyBatches));
  }
  if (absl::Status saved = Save(**job, asked.key); !saved.ok()) return saved;
  const BatchRecord shown = (*job)->record;
  queue_.push_back(shown.id);
  jobs_[shown.id] = *std::move(job);
  return MadeBatch{shown};
}

absl::StatusOr<std::unique_ptr<BatchJobs::Job>> BatchJobs::MakeJob(
    const std::string& tenant, const BatchAskedFor& asked) const {
  const auto input = files_.Find(tenant, asked.input_file_id);
  if (!input.ok()) return input.status();
  if (!input->has_value() || (*input)->purpose != "batch") {
    return InvalidFields({{"input_file_id",
                           "names no file of yours with purpose \"batch\"; upload one to /v1/files "
                           "and give its id"}});
  }
  if (parts_.tenants != nullptr) {
    const auto terms = parts_.tenants->TermsOf(tenant, PriorityClass::kBatch);
    if (!terms.ok()) return terms.status();
  }
  auto job = std::make_unique<Job>();
  BatchRecord& record = job->record;
  record.id = FileStore::DrawId(kIdPrefix);
  record.tenant = tenant;
  record.endpoint = asked.endpoint;
  record.input_file_id = asked.input_file_id;
  record.output_file_id = FileStore::DrawId(kFileIdPrefix);
  record.error_file_id = FileStore::DrawId(kFileIdPrefix);
  record.created_at = Now();
  record.expires_at = record.created_at + options_.window_seconds;
  record.output_expires_seconds = asked.output_expires_seconds;
  record.lines = (*input)->lines;
  record.metadata = asked.metadata;
  record.Reach(BatchStatus::kValidating, record.created_at);
  return job;
}

absl::Status BatchJobs::NoSuchBatch(const std::string& id) const {
  return RefusalStatus(absl::StatusCode::kNotFound,
                       absl::StrCat("there is no batch ", id.substr(0, 64),
                                    " of yours; GET /v1/batches lists those that there are"),
                       Because(reason::kBatchNotFound));
}

std::optional<BatchRecord> BatchJobs::FindOpen(const std::string& tenant,
                                               const std::string& id) const {
  absl::MutexLock lock(&mutex_);
  const auto job = jobs_.find(id);
  if (job == jobs_.end() || job->second->record.tenant != tenant) return std::nullopt;
  return Shown(*job->second);
}

absl::StatusOr<BatchRecord> BatchJobs::Find(const std::string& tenant, const std::string& id) {
  if (auto open = FindOpen(tenant, id); open.has_value()) return *std::move(open);
  const auto stored = files_.FindBatch(tenant, id);
  if (!stored.ok()) return stored.status();
  if (!stored->has_value()) return NoSuchBatch(id);
  return ParseBatch((*stored)->record);
}

absl::StatusOr<Page<BatchRecord>> BatchJobs::List(const std::string& tenant, const PageAsk& ask) {
  const auto stored = files_.ListBatches(tenant, ask);
  if (!stored.ok()) return stored.status();
  Page<BatchRecord> page;
  page.has_more = stored->has_more;
  for (const StoredBatch& batch : stored->items) {
    if (auto open = FindOpen(tenant, batch.id); open.has_value()) {
      page.items.push_back(*std::move(open));
      continue;
    }
    absl::StatusOr<BatchRecord> record = ParseBatch(batch.record);
    if (!record.ok()) return record.status();
    page.items.push_back(*std::move(record));
  }
  return page;
}

absl::StatusOr<BatchRecord> BatchJobs::Cancel(const std::string& tenant, const std::string& id) {
  {
    absl::MutexLock lock(&mutex_);
    const auto found = jobs_.find(id);
    if (found != jobs_.end() && found->second->record.tenant == tenant) {
      Job& job = *found->second;
      job.record.Reach(BatchStatus::kCancelling, Now());
      if (absl::Status saved = Save(job); !saved.ok()) return saved;
      if (job.runner != nullptr) job.runner->Stop();
      return Shown(job);
    }
  }
  const absl::StatusOr<BatchRecord> ended = Find(tenant, id);
  if (!ended.ok() || ended->status == BatchStatus::kCancelled) return ended;
  return absl::FailedPreconditionError(absl::StrCat("the batch is ", NameOf(ended->status),
                                                    "; only one that has not ended can be "
                                                    "cancelled"));
}

std::string BatchJobs::ReaderOf(const std::string& file_id) const {
  absl::MutexLock lock(&mutex_);
  for (const auto& [id, job] : jobs_) {
    if (job->record.input_file_id == file_id) return id;
  }
  return "";
}

BatchRecord BatchJobs::Shown(const Job& job) const {
  BatchRecord record = job.record;
  if (job.totals != nullptr) record.sums = job.totals->sums();
  return record;
}

absl::Status BatchJobs::Save(const Job& job, const MakingKey& key) {
  return files_.Put({.id = job.record.id,
                     .tenant = job.record.tenant,
                     .active = !job.record.ended(),
                     .record = SerialiseBatch(Shown(job)),
                     .key = key});
}

bool BatchJobs::MustEnd(const Job& job) const {
  return stopping_ || job.expired || job.record.status == BatchStatus::kCancelling;
}

// Ends what has had its time, batches and files.
void BatchJobs::Watch() {
  int64_t files_seen_at = 0;
  while (true) {
    const int64_t now = Now();
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&stopping_), kWatchEvery)) return;
      for (const auto& [id, job] : jobs_) {
        if (job->expired || now < job->record.expires_at) continue;
        job->expired = true;
        if (job->runner != nullptr) job->runner->Stop();
      }
    }
    if (now != std::exchange(files_seen_at, now)) RemoveExpiredFiles();
  }
}

void BatchJobs::RemoveExpiredFiles() {
  absl::MutexLock making(&making_mutex_);
  const auto expired = files_.Expired(Now());
  if (!expired.ok()) return;  // as well in a second
  for (const StoredFile& file : *expired) {
    if (!ReaderOf(file.id).empty()) continue;
    if (files_.Delete(file.tenant, file.id).value_or(false)) {
      spdlog::info("{} of tenant {}: its time was up", file.id, file.tenant);
    }
  }
}

BatchJobs::Job* BatchJobs::NextJob() {
  std::map<std::string, int> running;  // by tenant
  for (const auto& [id, job] : jobs_) running[job->record.tenant] += job->running;
  Job* next = nullptr;
  for (const std::string& id : queue_) {
    Job* job = jobs_.at(id).get();
    if (job->running) continue;
    if (next == nullptr || running[job->record.tenant] < running[next->record.tenant]) next = job;
  }
  return next;
}

void BatchJobs::Work() {
  while (true) {
    Job* job = nullptr;
    {
      absl::MutexLock lock(&mutex_);
      const auto any = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stopping_ || NextJob() != nullptr;
      };
      mutex_.Await(absl::Condition(&any));
      if (stopping_) return;
      job = NextJob();
      job->running = true;
    }
    RunJob(job);
  }
}

void BatchJobs::RunJob(Job* job) {
  while (true) {
    BatchRecord record;
    {
      absl::MutexLock lock(&mutex_);
      if (job->record.status == BatchStatus::kValidating) {
        job->record.Reach(BatchStatus::kInProgress, Now());
        const absl::Status saved = Save(*job);
        if (!saved.ok()) spdlog::warn("{}: {}", job->record.id, std::string(saved.message()));
      }
      record = job->record;
    }
    const absl::Status asked = AskLines(job, record);
    std::optional<BatchStatus> end;
    {
      absl::MutexLock lock(&mutex_);
      end = EndOf(*job, asked);
      if (stopping_ && !end.has_value()) return;
    }
    if (end.has_value()) {
      const bool failed = *end == BatchStatus::kFailed;
      if (Finish(job, *end, failed ? std::string(asked.message()) : "")) return;
    } else {
      spdlog::warn("{} pauses: {}", record.id, std::string(asked.message()));
    }
    absl::MutexLock lock(&mutex_);
    const auto no_use = [this, job, &end]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return stopping_ || (!end.has_value() && MustEnd(*job));
    };
    mutex_.AwaitWithTimeout(absl::Condition(&no_use), absl::Nanoseconds(options_.retry_ns));
    if (stopping_) return;
  }
}

std::optional<BatchStatus> BatchJobs::EndOf(const Job& job, const absl::Status& asked) const {
  if (asked.ok()) {
    return job.record.status == BatchStatus::kCancelling ? BatchStatus::kCancelled
           : job.cut_off                                 ? BatchStatus::kExpired
                                                         : BatchStatus::kCompleted;
  }
  if (stopping_) return std::nullopt;
  if (job.record.status == BatchStatus::kCancelling) return BatchStatus::kCancelled;
  if (job.expired) return BatchStatus::kExpired;
  // What its files hold is not what we wrote: no retry helps.
  if (asked.code() == absl::StatusCode::kNotFound || asked.code() == absl::StatusCode::kDataLoss) {
    return BatchStatus::kFailed;
  }
  return std::nullopt;
}

absl::StatusOr<BatchJobs::Results> BatchJobs::OpenResults(const BatchRecord& record) const {
  Results results;
  results.totals = std::make_shared<BatchTotals>();
  const auto take = [&results](const nlohmann::json& line) {
    results.done.insert(BatchRunner::KeyOfAnswer(line));
    results.totals->Add(line);
  };
  for (const auto& [id, output] : {std::pair{record.output_file_id, &results.answers},
                                   std::pair{record.error_file_id, &results.errors}}) {
    auto opened = BatchOutput::Resume(files_.PathOf(id), take);
    if (!opened.ok()) return opened.status();
    *output = *std::move(opened);
  }
  return results;
}

absl::Status BatchJobs::Append(const std::string& line, BatchOutput* output) {
  const int64_t bytes = static_cast<int64_t>(line.size()) + 1;
  absl::Status status = files_.TakeBytes(bytes);
  if (!status.ok()) return status;
  status = output->Append(line);
  if (!status.ok()) files_.GiveBack(bytes);
  return status;
}

// OK: every line has its place in one of the two files.
absl::Status BatchJobs::AskLines(Job* job, const BatchRecord& record) {
  absl::StatusOr<Results> results = OpenResults(record);
  if (!results.ok()) return results.status();
  absl::StatusOr<BatchInput> input = BatchInput::Open(files_.PathOf(record.input_file_id));
  if (!input.ok()) return absl::NotFoundError("the input file is not there any more");
  const int64_t until_ns = parts_.clock->NowNs() + kGraceNs +
                           std::max<int64_t>(0, record.expires_at - Now()) * 1'000'000'000;
  const BatchRunOptions run = {.job_id = JobIdOf(record),
                               .concurrency = options_.lines_max,
                               .patience_seconds = std::numeric_limits<double>::infinity(),
                               .reference = std::nullopt,
                               .reading = {.limits = parts_.limits, .url = record.endpoint}};
  BatchRunner runner(
      run,
      [&]() -> absl::StatusOr<std::unique_ptr<BatchAsker>> {
        return std::make_unique<DirectAsker>(parts_, record.tenant, until_ns);
      },
      [&](const std::string& line, bool answered) {
        return Append(line, answered ? results->answers.get() : results->errors.get());
      },
      results->totals.get());
  {
    absl::MutexLock lock(&mutex_);
    job->totals = results->totals;
    job->runner = &runner;
    if (MustEnd(*job)) runner.Stop();
  }
  absl::Status status = runner.Run(&*input, results->done);
  bool expired = false;
  {
    absl::MutexLock lock(&mutex_);
    job->runner = nullptr;
    expired = job->expired && !stopping_ && job->record.status != BatchStatus::kCancelling;
  }
  if (status.ok() || !expired) return status;
  results->answers.reset();  // one at a time has them
  results->errors.reset();
  results = OpenResults(record);  // with what was answered meanwhile
  if (!results.ok()) return results.status();
  status = WriteExpiredLines(record, &*results);
  absl::MutexLock lock(&mutex_);
  job->totals = results->totals;
  job->cut_off = true;
  return status;
}

absl::Status BatchJobs::WriteExpiredLines(const BatchRecord& record, Results* results) {
  absl::StatusOr<BatchInput> input = BatchInput::Open(files_.PathOf(record.input_file_id));
  if (!input.ok()) return input.status();
  while (const std::optional<BatchLine> line = input->Next()) {
    const std::string custom_id = CustomIdOf(*line).value_or("");
    if (results->done.contains(BatchRunner::KeyOf(custom_id, line->number))) continue;
    const std::string text =
        BatchExpiredLine(BatchLineId(JobIdOf(record), line->number), custom_id);
    if (absl::Status status = Append(text, results->errors.get()); !status.ok()) return status;
    results->totals->Add(nlohmann::json::parse(text));
  }
  return input->status();
}

// The results become files in the moment that the batch has ended.
bool BatchJobs::Finish(Job* job, BatchStatus end, const std::string& failure) {
  absl::MutexLock lock(&mutex_);
  BatchRecord record = Shown(*job);
  const int64_t now = Now();
  record.Reach(BatchStatus::kFinalizing, now);
  record.Reach(end, now);
  record.failure = failure;
  record.output_lines = record.sums.answered;
  record.error_lines = record.sums.refused;
  const int64_t expires = files_.ExpiryOf(now, record.output_expires_seconds);
  std::vector<StoredFile> results;
  for (const auto& [id, what, lines] :
       {std::tuple{&record.output_file_id, "output", &record.output_lines},
        std::tuple{&record.error_file_id, "error", &record.error_lines}}) {
    StoredFile file = ResultFile(record, *id, what, files_.PathOf(*id), now, expires);
    if (file.bytes > 0) {
      // What is there is shown, even where it could not be counted.
      file.lines = *lines = std::max<int64_t>(*lines, 1);
      results.push_back(std::move(file));
    } else {
      unlink(files_.PathOf(*id).c_str());
    }
  }
  const absl::Status saved = files_.Put(
      {.id = record.id, .tenant = record.tenant, .active = false, .record = SerialiseBatch(record)},
      results);
  if (!saved.ok()) {
    spdlog::warn("{} cannot end yet: {}", record.id, std::string(saved.message()));
    return false;
  }
  spdlog::info("{} of tenant {}: {}, {} lines answered, {} refused", record.id, record.tenant,
               NameOf(end), record.output_lines, record.error_lines);
  queue_.erase(std::find(queue_.begin(), queue_.end(), record.id));
  jobs_.erase(record.id);
  return true;
}

}  // namespace tuppence
