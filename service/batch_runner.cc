#include "service/batch_runner.h"

#include <algorithm>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "scheduler/refusal.h"
#include "service/rpc_status.h"

namespace tuppence {
namespace {

constexpr absl::Duration kFirstWait = absl::Milliseconds(100);
constexpr absl::Duration kLongestWait = absl::Seconds(10);

// Whether the same request may be answered later: the service is full, away or going, the tenant
// has as much in progress as it may, or the request, asked before a kill, is still being answered.
// What is spent stays spent, and bad input bad.
bool MayBeAnsweredLater(const absl::Status& status) {
  const std::optional<Refusal> refusal = RefusalOf(status);
  if (absl::IsUnavailable(status)) return true;
  return (absl::IsResourceExhausted(status) || absl::IsAborted(status)) && refusal.has_value() &&
         refusal->retry_after_ms >= 0 && refusal->reason != reason::kBudgetSpent;
}

// Answered before a kill, and the service can neither find that answer nor make it again.
bool IsAnswerGone(const absl::Status& status) {
  const std::optional<Refusal> refusal = RefusalOf(status);
  return absl::IsAlreadyExists(status) && refusal.has_value() &&
         refusal->reason == reason::kKeyAnswerGone;
}

}  // namespace

BatchRunner::BatchRunner(const BatchRunOptions& options, MakeAsker make_asker, Append append,
                         BatchTotals* totals)
    : options_(options),
      make_asker_(std::move(make_asker)),
      append_(std::move(append)),
      totals_(totals) {}

std::string BatchRunner::KeyOf(const std::string& custom_id, int64_t line_number) {
  // No custom_id is empty, so that the two never meet.
  return custom_id.empty() ? absl::StrCat("\n", line_number) : custom_id;
}

std::string BatchRunner::KeyOfAnswer(const nlohmann::json& line) {
  const auto custom_id = line.find("custom_id");
  if (custom_id != line.end() && custom_id->is_string()) return custom_id->get<std::string>();
  // Without one its id ends in the line's number.
  const std::string id = line["id"].is_string() ? line["id"].get<std::string>() : "";
  int64_t number = 0;
  if (!absl::SimpleAtoi(id.substr(id.rfind('_') + 1), &number)) number = -1;
  return KeyOf("", number);
}

absl::Status BatchRunner::Run(BatchInput* input, absl::flat_hash_set<std::string> done) {
  {
    absl::MutexLock lock(&mutex_);
    input_ = input;
    done_ = std::move(done);
    last_answer_ = absl::Now();
  }
  std::vector<std::unique_ptr<BatchAsker>> askers;
  for (int i = 0; i < options_.concurrency; ++i) {
    absl::StatusOr<std::unique_ptr<BatchAsker>> asker = make_asker_();
    if (!asker.ok()) return asker.status();
    askers.push_back(*std::move(asker));
  }
  std::vector<std::thread> workers;
  for (const auto& asker : askers) workers.emplace_back([&] { Work(asker.get()); });
  for (std::thread& worker : workers) worker.join();
  absl::MutexLock lock(&mutex_);
  return paused_.ok() ? input->status() : paused_;
}

void BatchRunner::Stop() {
  Pause(absl::CancelledError("stopped; run the same command again, and it goes on where it was"));
}

void BatchRunner::Pause(const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  paused_.Update(status);
}

absl::Status BatchRunner::paused() const {
  absl::MutexLock lock(&mutex_);
  return paused_;
}

std::optional<BatchLine> BatchRunner::NextLine() {
  absl::MutexLock lock(&mutex_);
  while (paused_.ok()) {
    std::optional<BatchLine> line = input_->Next();
    if (!line.has_value()) return std::nullopt;
    const absl::StatusOr<std::string> id = CustomIdOf(*line);
    if (!done_.contains(KeyOf(id.value_or(""), line->number))) return line;
  }
  return std::nullopt;
}

void BatchRunner::Work(BatchAsker* asker) {
  while (const std::optional<BatchLine> line = NextLine()) {
    const absl::StatusOr<Written> written = Answer(*line, asker);
    absl::Status status = written.status();
    if (status.ok()) status = append_(written->line, written->answered);
    if (!status.ok()) {
      Pause(status);
      return;
    }
    totals_->Add(nlohmann::json::parse(written->line));
    absl::MutexLock lock(&mutex_);
    last_answer_ = absl::Now();
  }
}

absl::StatusOr<BatchRunner::Written> BatchRunner::Answer(const BatchLine& line, BatchAsker* asker) {
  const std::string first_name = absl::StrCat("batch-", options_.job_id, "-", line.number);
  std::string name = first_name;
  int names = 1;
  const std::string id = BatchLineId(options_.job_id, line.number);
  const std::string custom_id = CustomIdOf(line).value_or("");
  const absl::StatusOr<BatchAsk> ask = ReadBatchLine(line, options_.reading);
  if (!ask.ok()) return Written{BatchErrorLine(id, custom_id, ask.status())};
  for (int tries = 0;; ++tries) {
    BatchAnswer answer(*ask);
    const absl::Status status = Ask(*ask, name, asker, &answer);
    if (status.ok()) return Written{answer.Line(id, options_.reference), true};
    if (IsAnswerGone(status)) {
      // As a new request, whose answer is paid for too.
      name = absl::StrCat(first_name, "-", ++names);
      continue;
    }
    if (!MayBeAnsweredLater(status)) {
      // What ran out of time when the whole job did is not this line's failure.
      if (absl::IsDeadlineExceeded(status) && !paused().ok()) return paused();
      return Written{BatchErrorLine(id, custom_id, status, answer.end())};
    }
    absl::Status waited = WaitToTryAgain(status, tries);
    if (!waited.ok()) return waited;
  }
}

absl::Status BatchRunner::Ask(const BatchAsk& ask, const std::string& name, BatchAsker* asker,
                              BatchAnswer* answer) {
  const absl::Status status = asker->Ask(ask, name, answer);
  if (status.ok() && (!answer->complete() || !answer->has_end())) {
    return absl::InternalError("the service ended the answer without its last message");
  }
  if (status.code() == absl::StatusCode::kUnavailable && answer->complete()) {
    return FindEnd(status, name, asker, answer);
  }
  return status;
}

absl::Status BatchRunner::FindEnd(const absl::Status& why, const std::string& name,
                                  BatchAsker* asker, BatchAnswer* answer) {
  for (int tries = 0;; ++tries) {
    BookedAnswer booked;
    const absl::Status found = asker->FindBooked(name, &booked);
    if (found.ok() && !booked.open) {
      if (booked.request_id != answer->request_id() || booked.code != 0) return why;
      answer->SetEnd(booked.usage, booked.cost);
      return absl::OkStatus();
    }
    if (!found.ok() && found.code() != absl::StatusCode::kUnavailable) return why;
    if (absl::Status waited = WaitToTryAgain(why, tries); !waited.ok()) return waited;
  }
}

absl::Status BatchRunner::WaitToTryAgain(const absl::Status& why, int tries) {
  const std::optional<Refusal> refusal = RefusalOf(why);
  const absl::Duration asked =
      absl::Milliseconds(refusal.has_value() ? refusal->retry_after_ms : 0);
  const absl::Duration grown = kFirstWait * (int64_t{1} << std::min(tries, 10));
  const absl::Time until = absl::Now() + std::min(std::max(asked, grown), kLongestWait);
  absl::MutexLock lock(&mutex_);
  const absl::Duration without_answer = absl::Now() - last_answer_;
  if (absl::ToDoubleSeconds(without_answer) > options_.patience_seconds) {
    return absl::Status(
        why.code(),
        absl::StrCat("nothing was answered for ",
                     absl::FormatDuration(absl::Trunc(without_answer, absl::Seconds(1))),
                     ", and the job pauses; run the same command again, and it goes on "
                     "where it was. The service said: ",
                     why.message()));
  }
  const auto paused = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !paused_.ok(); };
  mutex_.AwaitWithDeadline(absl::Condition(&paused), until);
  return paused_;
}

}  // namespace tuppence
