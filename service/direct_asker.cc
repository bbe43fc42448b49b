#include "service/direct_asker.h"

#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "service/call_registry.h"
#include "service/generation.h"
#include "service/served_model.h"
#include "service/usage_reader.h"

namespace tuppence {
namespace {

// What a door is to a caller, for a thread.
class WaitingCall final : public StreamReader, public WatchedCall {
 public:
  WaitingCall(const ServiceParts& parts, Method method) : generation(parts, method, this) {}

  void OnReady() override {
    absl::MutexLock lock(&mutex_);
    ready_ = true;
  }
  int64_t writing_since_ns() const override { return 0; }
  void CutOff() override {}
  int64_t completion_tokens() const override { return generation.completion_tokens(); }

  // The next piece.
  void Take(StreamDelta* delta) {
    while (!generation.Take(delta)) {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&ready_));
      ready_ = false;
    }
  }

 private:
  absl::Mutex mutex_;
  bool ready_ ABSL_GUARDED_BY(mutex_) = false;

 public:
  Generation generation;  // last: from its construction on the registry looks at the others
};

}  // namespace

absl::Status DirectAsker::Ask(const BatchAsk& ask, const std::string& name, BatchAnswer* answer) {
  WaitingCall call(parts_, ask.is_chat ? Method::kChat : Method::kCompletion);
  Generation& generation = call.generation;
  generation.identity.request_id = MakeRequestId();
  generation.identity.caller_request_id = name;
  generation.identity.tenant = tenant_;
  // Begins as no caller's key can.
  generation.identity.idempotency_key = absl::StrCat("\n", name);
  absl::Status status = generation.Start(ask.ask, until_ns_, &call);
  if (!status.ok()) {
    generation.Close(status, nullptr);
    return status;
  }
  AnswerHead head = HeadOf(*parts_.model);
  head.request_id = generation.answer_id();
  head.created_unix_seconds = generation.created_utc_ns() / 1'000'000'000;
  answer->Begin(std::move(head));
  StreamDelta delta;
  while (true) {
    call.Take(&delta);
    answer->Add(delta);
    if (!delta.end.has_value()) continue;
    const RequestEnd& end = *delta.end;
    if (end.status.ok() && generation.is_replay()) TellFirstCost(generation.answer_id(), answer);
    status = end.status;
    generation.Close(status, &end);
    return status;
  }
}

// A line costs what its first answer cost, which is what the books have of it. Where they have none
// it says whose replay it is, at no cost.
void DirectAsker::TellFirstCost(const std::string& request_id, BatchAnswer* answer) const {
  if (parts_.usage_store.empty()) return;
  const auto books = UsageReader::Open(parts_.usage_store);
  if (!books.ok()) return;
  const auto first = (*books)->FindRequest(request_id, tenant_);
  if (!first.ok() || !first->has_value()) return;
  answer->SetEnd(UsageOf((*first)->request), CostOf((*first)->request));
}

absl::Status DirectAsker::FindBooked(const std::string& name, BookedAnswer*) {
  return absl::NotFoundError(absl::StrCat("request ", name, " is looked up by its key"));
}

}  // namespace tuppence
