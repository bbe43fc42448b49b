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

namespace tuppence {
namespace {

constexpr absl::Duration kFirstWait = absl::Milliseconds(100);
constexpr absl::Duration kLongestWait = absl::Seconds(10);

// Whether the same request may be answered later: the service is full, away or going, or the
// tenant has as much in progress as it may. What is spent stays spent, and bad input bad.
bool MayBeAnsweredLater(const absl::Status& status) {
  const std::optional<Refusal> refusal = RefusalOf(status);
  if (status.code() == absl::StatusCode::kUnavailable) return true;
  return status.code() == absl::StatusCode::kResourceExhausted && refusal.has_value() &&
         refusal->retry_after_ms >= 0 && refusal->reason != reason::kBudgetSpent;
}

}  // namespace

BatchRunner::BatchRunner(const BatchRunOptions& options,
                         std::function<absl::StatusOr<std::unique_ptr<Client>>()> make_client,
                         BatchOutput* output, BatchTotals* totals)
    : options_(options), make_client_(std::move(make_client)), output_(output), totals_(totals) {}

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
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < options_.concurrency; ++i) {
    absl::StatusOr<std::unique_ptr<Client>> client = make_client_();
    if (!client.ok()) return client.status();
    clients.push_back(*std::move(client));
  }
  std::vector<std::thread> workers;
  for (const auto& client : clients) workers.emplace_back([&] { Work(client.get()); });
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

void BatchRunner::Work(Client* client) {
  while (const std::optional<BatchLine> line = NextLine()) {
    absl::StatusOr<std::string> text = Answer(*line, client);
    absl::Status status = text.status();
    if (status.ok()) status = output_->Append(*text);
    if (!status.ok()) {
      Pause(status);
      return;
    }
    totals_->Add(nlohmann::json::parse(*text));
    absl::MutexLock lock(&mutex_);
    last_answer_ = absl::Now();
  }
}

absl::StatusOr<std::string> BatchRunner::Answer(const BatchLine& line, Client* client) {
  const std::string name = absl::StrCat("batch-", output_->job_id(), "-", line.number);
  const std::string id = absl::StrCat("batch_req_", output_->job_id(), "_", line.number);
  const std::string custom_id = CustomIdOf(line).value_or("");
  const absl::StatusOr<BatchAsk> ask = ReadBatchLine(line);
  if (!ask.ok()) return BatchErrorLine(id, custom_id, ask.status());
  for (int tries = 0;; ++tries) {
    BatchAnswer answer(*ask);
    const absl::Status status = Ask(*ask, name, client, &answer);
    if (status.ok()) return answer.Line(id, absl::ToUnixSeconds(absl::Now()), options_.reference);
    if (!MayBeAnsweredLater(status)) return BatchErrorLine(id, custom_id, status);
    absl::Status waited = WaitToTryAgain(status, tries);
    if (!waited.ok()) return waited;
  }
}

absl::Status BatchRunner::Ask(const BatchAsk& ask, const std::string& name, Client* client,
                              BatchAnswer* answer) {
  const absl::Status status = client->Generate(
      ask.request, [&](const v1::GenerateResponse& message) { answer->Add(message); }, name);
  if (status.ok() && (!answer->complete() || !answer->has_end())) {
    return absl::InternalError("the service ended the answer without its last message");
  }
  if (status.code() == absl::StatusCode::kUnavailable && answer->complete()) {
    return FindEnd(status, name, client, answer);
  }
  return status;
}

absl::Status BatchRunner::FindEnd(const absl::Status& why, const std::string& name, Client* client,
                                  BatchAnswer* answer) {
  for (int tries = 0;; ++tries) {
    v1::GetUsageResponse usage;
    const absl::Status found = client->GetUsage(name, &usage);
    if (found.ok() && !usage.open()) {
      if (usage.request_id() != answer->request_id() || usage.code() != 0) return why;
      answer->SetEnd(usage.usage(), usage.cost());
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
