#include "service/generate_call.h"

#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "scheduler/clock.h"
#include "service/call_registry.h"
#include "service/convert.h"
#include "service/generation.h"
#include "service/rpc_call.h"
#include "service/rpc_status.h"

namespace tuppence {
namespace {

class GenerateCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                           public StreamReader,
                           public WatchedCall {
 public:
  GenerateCall(const ServiceParts& parts, grpc::CallbackServerContext* context)
      : parts_(parts), context_(context), generation_(parts, Method::kGenerate, this) {}

  // Takes the call on or refuses it; either way a Finish follows.
  void Start(const grpc::ByteBuffer& bytes) {
    absl::Status accepted = Accept(bytes);
    if (!accepted.ok()) {
      FinishWith(std::move(accepted));
    } else if (generation_.replays_from_memory()) {
      Pump();
    }
  }

  void OnReady() override { Pump(); }
  void OnWriteDone(bool ok) override;
  void OnCancel() override { generation_.GiveUp(); }
  void OnDone() override;

  int64_t writing_since_ns() const override { return writing_since_ns_.load(); }
  void CutOff() override { context_->TryCancel(); }
  int64_t completion_tokens() const override { return generation_.completion_tokens(); }

 private:
  absl::Status Accept(const grpc::ByteBuffer& bytes);
  void Pump();
  void Write();
  void AddStart(v1::GenerateResponse* response);
  void FinishWith(absl::Status status);

  const ServiceParts& parts_;
  grpc::CallbackServerContext* const context_;
  Shown shown_;  // set by Accept, read only once the request is with the engine

  absl::Mutex mutex_;
  // Whoever set it owns the members below, until the write is done.
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<int64_t> writing_since_ns_ = 0;
  StreamDelta delta_;
  v1::GenerateResponse response_;
  grpc::ByteBuffer bytes_;  // gRPC reads it until the write is done
  bool started_ = false;    // the first message, and so the initial metadata, went out
  bool broken_ = false;     // a write failed: the caller is gone
  std::optional<RequestEnd> end_;
  absl::Status status_;
  Generation generation_;  // last: from its construction on the registry looks at the others
};

absl::Status GenerateCall::Accept(const grpc::ByteBuffer& bytes) {
  CallIdentity* identity = &generation_.identity;
  if (absl::Status status = ReadIdentity(*context_, parts_, identity); !status.ok()) {
    return status;
  }
  const absl::StatusOr<int64_t> deadline_ns = ReadDeadline(*context_, parts_.limits, *parts_.clock);
  if (!deadline_ns.ok()) return deadline_ns.status();
  if (absl::Status place = generation_.CheckPlace(); !place.ok()) return place;
  v1::GenerateRequest message;
  if (absl::Status status = ParseMessage(bytes, parts_.limits, &message); !status.ok()) {
    return status;
  }
  GenerationAsk ask = AskFromProto(&message);
  shown_ = Shown{.text = !ask.no_text,
                 .token_ids = message.output().token_ids() || ask.no_text,
                 .logprobs = ask.sampling.logprobs,
                 .tokenizer = parts_.model->tokenizer.get()};
  return generation_.Start(std::move(ask), *deadline_ns, this);
}

// Takes what has gathered and writes it, unless a write is in flight: then OnWriteDone comes here.
void GenerateCall::Pump() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (busy_ || !generation_.Take(&delta_)) return;
      busy_ = true;
    }
    if (delta_.end.has_value()) {
      end_ = std::move(delta_.end);
      Write();
      return;
    }
    response_.Clear();
    if (!broken_ && AppendDelta(delta_, shown_, &response_)) {
      Write();
      return;
    }
    // Nothing to show yet (the text may still become a stop string), or nobody to show it to.
    absl::MutexLock lock(&mutex_);
    busy_ = false;
  }
}

// Writes the message, or the last one and the status. An error before the first message goes out
// without one: the call is then not committed, and a client may retry it. What was booked until
// then is in its details, and so in the trailers, which commit nothing.
void GenerateCall::Write() {
  if (!end_.has_value()) {
    AddStart(&response_);
    SerialiseMessage(response_, &bytes_);
    writing_since_ns_.store(parts_.clock->NowNs());
    StartWrite(&bytes_);
    return;
  }
  absl::Status status = end_->status;
  if (broken_ || (!status.ok() && !started_)) {
    FinishWith(std::move(status));
    return;
  }
  response_.Clear();
  AppendDelta(delta_, shown_, &response_);
  AddStart(&response_);
  ToProto(end_->usage, response_.mutable_usage());
  ToProto(end_->cost, response_.mutable_cost());
  SerialiseMessage(response_, &bytes_);
  status_ = std::move(status);
  AddTrailers(generation_.identity, status_, context_);
  AddLoadReport(end_->cost, context_);
  writing_since_ns_.store(parts_.clock->NowNs());
  StartWriteAndFinish(&bytes_, grpc::WriteOptions(),
                      ToGrpcStatus(status_, generation_.identity.request_id));
}

void GenerateCall::AddStart(v1::GenerateResponse* response) {
  if (started_) return;
  started_ = true;
  context_->AddInitialMetadata(kRequestIdKey, generation_.identity.request_id);
  if (!generation_.identity.caller_request_id.empty()) {
    context_->AddInitialMetadata(kCallerRequestIdKey, generation_.identity.caller_request_id);
  }
  if (generation_.is_replay()) context_->AddInitialMetadata(kReplayedKey, "true");
  v1::GenerateResponse::Start* start = response->mutable_start();
  start->set_request_id(generation_.answer_id());
  start->set_model(parts_.model->name);
  start->set_seed(generation_.seed());
  start->set_prompt_tokens(generation_.prompt_tokens());
}

void GenerateCall::FinishWith(absl::Status status) {
  status_ = std::move(status);
  AddTrailers(generation_.identity, status_, context_);
  const RequestEnd* end = end_.has_value() ? &*end_ : nullptr;
  if (end != nullptr) AddLoadReport(end->cost, context_);
  Finish(ToGrpcStatus(status_, generation_.identity.request_id, end));
}

void GenerateCall::OnWriteDone(bool ok) {
  writing_since_ns_.store(0);
  if (!ok) {
    broken_ = true;
    generation_.GiveUp();
  }
  {
    absl::MutexLock lock(&mutex_);
    busy_ = false;
  }
  Pump();
}

void GenerateCall::OnDone() {
  generation_.Close(status_, end_.has_value() ? &*end_ : nullptr);
  delete this;
}

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartGenerate(const ServiceParts& parts,
                                                          grpc::CallbackServerContext* context,
                                                          const grpc::ByteBuffer* request) {
  auto* call = new GenerateCall(parts, context);
  call->Start(*request);
  return call;
}

}  // namespace tuppence
