#include "service/generate_call.h"

#include <grpcpp/support/server_callback.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "scheduler/admission.h"
#include "scheduler/clock.h"
#include "scheduler/engine.h"
#include "scheduler/token_stream.h"
#include "service/bookkeeper.h"
#include "service/call_identity.h"
#include "service/call_registry.h"
#include "service/convert.h"
#include "service/prompt.h"
#include "service/request_log.h"
#include "service/rpc_call.h"
#include "service/rpc_status.h"
#include "service/service_counters.h"
#include "service/submit_request.h"
#include "service/tenants.h"

namespace tuppence {
namespace {

uint64_t DrawSeed() {
  thread_local std::mt19937_64 generator(std::random_device{}());
  return generator();
}

SamplingLimits LimitsOf(const ServedModel& model) {
  SamplingLimits limits;
  limits.vocab = model.vocab;
  limits.context_tokens = model.context_tokens;
  limits.has_tokenizer = model.tokenizer != nullptr;
  return limits;
}

// The one refusal that has its own reason and numbers: prompt and answer do not fit the context.
absl::Status ContextExceeded(const std::vector<FieldViolation>& violations, int64_t prompt_tokens,
                             int32_t max_tokens, const ServedModel& model) {
  return InvalidFields(
      violations,
      Because(reason::kContextExceeded, {{"prompt_tokens", absl::StrCat(prompt_tokens)},
                                         {"max_tokens", absl::StrCat(max_tokens)},
                                         {"context_tokens", absl::StrCat(model.context_tokens)}}));
}

class GenerateCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                           public StreamReader,
                           public WatchedCall {
 public:
  GenerateCall(const ServiceParts& parts, grpc::CallbackServerContext* context)
      : parts_(parts), context_(context), received_ns_(parts.clock->NowNs()) {
    parts_.calls->Add(this);
  }

  // Takes the call on or refuses it; either way a Finish follows.
  void Start(const grpc::ByteBuffer& bytes) {
    absl::Status accepted = Accept(bytes);
    if (!accepted.ok()) FinishWith(std::move(accepted));
  }

  void OnReady() override { Pump(); }
  void OnWriteDone(bool ok) override;
  void OnCancel() override { GiveUp(); }
  void OnDone() override;

  int64_t writing_since_ns() const override { return writing_since_ns_.load(); }
  void CutOff() override { context_->TryCancel(); }
  int64_t completion_tokens() const override { return completion_tokens_.load(); }

 private:
  absl::Status Accept(const grpc::ByteBuffer& bytes);
  absl::Status CheckBeforeWork(const v1::GenerateRequest& message, const Prompt& prompt,
                               const SamplingParams& sampling,
                               std::vector<FieldViolation> violations) const;
  absl::Status AgreeTerms(std::optional<PriorityClass> asked);
  absl::Status Submit(Prompt prompt, SamplingParams sampling, const v1::GenerateRequest& message);
  void Pump();
  void Write();
  void AddStart(v1::GenerateResponse* response);
  void GiveUp();
  void FinishWith(absl::Status status);

  const ServiceParts& parts_;
  grpc::CallbackServerContext* const context_;
  const int64_t received_ns_;

  // Set by Accept, read only once the request is with the engine.
  CallIdentity identity_;
  TenantTerms terms_;
  std::optional<int64_t> max_cost_nanousd_;
  Shown shown_;
  uint64_t seed_ = 0;
  int32_t prompt_tokens_ = 0;
  int64_t deadline_ns_ = 0;
  std::shared_ptr<TokenStream> stream_;  // null until the request is complete

  absl::Mutex mutex_;
  // Whoever set it owns the members below, until the write is done.
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<int64_t> writing_since_ns_ = 0;
  std::atomic<int64_t> completion_tokens_ = 0;  // taken from the stream
  StreamDelta delta_;
  v1::GenerateResponse response_;
  grpc::ByteBuffer bytes_;  // gRPC reads it until the write is done
  bool started_ = false;    // the first message, and so the initial metadata, went out
  bool broken_ = false;     // a write failed: the caller is gone
  std::optional<RequestEnd> end_;
  absl::Status status_;
};

absl::Status GenerateCall::Accept(const grpc::ByteBuffer& bytes) {
  if (absl::Status status = ReadIdentity(*context_, parts_.limits, &identity_); !status.ok()) {
    return status;
  }
  const absl::StatusOr<int64_t> deadline_ns = ReadDeadline(*context_, parts_.limits, *parts_.clock);
  if (!deadline_ns.ok()) return deadline_ns.status();
  if (parts_.books != nullptr) {
    if (absl::Status status = parts_.books->MayRecord(); !status.ok()) return status;
  }
  v1::GenerateRequest message;
  if (absl::Status status = ParseMessage(bytes, parts_.limits, &message); !status.ok()) {
    return status;
  }
  std::vector<FieldViolation> violations;
  Prompt prompt = TakePrompt(&message, &violations);
  SamplingParams sampling = SamplingFromProto(message.sampling(), message.output());
  const auto asked = PriorityClassFromProto(message.priority_class(), &violations);
  max_cost_nanousd_ = MaxCostFromProto(message, &violations);
  absl::Status checked = CheckBeforeWork(message, prompt, sampling, std::move(violations));
  if (!checked.ok()) return checked;
  if (absl::Status agreed = AgreeTerms(asked); !agreed.ok()) return agreed;
  deadline_ns_ = *deadline_ns;
  return Submit(std::move(prompt), std::move(sampling), message);
}

// Everything that needs no token count, so that a bad request costs no work and takes no place.
absl::Status GenerateCall::CheckBeforeWork(const v1::GenerateRequest& message, const Prompt& prompt,
                                           const SamplingParams& sampling,
                                           std::vector<FieldViolation> violations) const {
  const ServedModel& model = *parts_.model;
  if (absl::Status status = CheckModelName(message.model(), model); !status.ok()) return status;
  if (absl::Status status = CheckPromptKind(prompt, model); !status.ok()) return status;
  CheckPrompt(prompt, model, parts_.limits, &violations);
  // Whether prompt and answer fit the context is seen once the prompt's tokens are counted.
  SamplingParams assumed = sampling;
  const int32_t longest = model.context_tokens - 1;
  assumed.max_tokens =
      message.sampling().has_max_tokens() ? std::min(sampling.max_tokens, longest) : longest;
  for (FieldViolation& violation :
       CheckSamplingParams(assumed, /*prompt_tokens=*/1, LimitsOf(model))) {
    violations.push_back(std::move(violation));
  }
  CheckAgainstModel(sampling, message.output().no_text(), model, &violations);
  return violations.empty() ? absl::OkStatus() : InvalidFields(violations);
}

absl::Status GenerateCall::AgreeTerms(std::optional<PriorityClass> asked) {
  terms_.priority_class = asked.value_or(terms_.priority_class);
  if (parts_.tenants == nullptr) return absl::OkStatus();
  const absl::StatusOr<TenantTerms> terms = parts_.tenants->TermsOf(identity_.tenant, asked);
  if (terms.ok()) terms_ = *terms;
  return terms.status();
}

absl::Status GenerateCall::Submit(Prompt prompt, SamplingParams sampling,
                                  const v1::GenerateRequest& message) {
  const ServedModel& model = *parts_.model;
  absl::StatusOr<std::shared_ptr<AdmissionHold>> hold =
      parts_.admission->Reserve(identity_.tenant, PromptTokensBound(prompt, model));
  if (!hold.ok()) return hold.status();
  const bool is_chat = prompt.kind == PromptKind::kChat;
  absl::StatusOr<std::vector<int32_t>> ids = TokenisePrompt(std::move(prompt), model);
  if (!ids.ok()) return ids.status();
  const int64_t prompt_tokens = static_cast<int64_t>(ids->size());
  (*hold)->Shrink(prompt_tokens);
  if (!message.sampling().has_max_tokens()) {
    sampling.max_tokens = MaxTokensDefault(prompt_tokens, model);
  }
  const auto violations = CheckSamplingParams(sampling, prompt_tokens, LimitsOf(model));
  if (prompt_tokens + sampling.max_tokens > model.context_tokens) {
    return ContextExceeded(violations, prompt_tokens, sampling.max_tokens, model);
  }
  if (!violations.empty()) return InvalidFields(violations);
  if (!sampling.seed.has_value()) sampling.seed = DrawSeed();

  const v1::OutputOptions& output = message.output();
  shown_ = Shown{.text = !output.no_text(),
                 .token_ids = output.token_ids() || output.no_text(),
                 .logprobs = sampling.logprobs,
                 .tokenizer = model.tokenizer.get()};
  seed_ = *sampling.seed;
  prompt_tokens_ = static_cast<int32_t>(prompt_tokens);
  stream_ = std::make_shared<TokenStream>(sampling.choices, TokenStream::Limits{});

  Request request;
  request.id = identity_.request_id;
  request.caller_id = identity_.caller_request_id;
  request.tenant = identity_.tenant;
  request.priority_class = terms_.priority_class;
  request.weight_milli = terms_.weight_milli;
  request.prompt = *std::move(ids);
  if (!sampling.ignore_eos) request.stop_ids = model.stop_ids;
  request.stop_ids.insert(request.stop_ids.end(), sampling.stop_ids.begin(),
                          sampling.stop_ids.end());
  request.text_output = shown_.text;
  request.drop_leading_space = is_chat;
  request.received_ns = received_ns_;
  request.deadline_ns = deadline_ns_;
  request.max_cost_nanousd = max_cost_nanousd_;
  request.sampling = std::move(sampling);
  request.stream = stream_;
  request.hold = *std::move(hold);
  parts_.calls->Describe(this, {.request_id = identity_.request_id,
                                .caller_request_id = identity_.caller_request_id,
                                .tenant = identity_.tenant,
                                .received_ns = received_ns_,
                                .prompt_tokens = prompt_tokens,
                                .max_tokens = request.sampling.max_tokens});
  stream_->SetReader(this);
  absl::Status submitted = SubmitRequest(parts_, std::move(request));
  // From here on other threads may be in Pump; only this status is still ours.
  if (!submitted.ok()) stream_->SetReader(nullptr);
  return submitted;
}

// Takes what has gathered and writes it, unless a write is in flight: then OnWriteDone comes here.
void GenerateCall::Pump() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (busy_ || !stream_->Take(&delta_)) return;
      busy_ = true;
    }
    for (const ChoiceDelta& choice : delta_.choices) {
      completion_tokens_.fetch_add(static_cast<int64_t>(choice.token_ids.size()));
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
// alone: the call is then not committed, and a client may retry it.
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
  AddTrailers(identity_, status_, context_);
  AddLoadReport(end_->cost, context_);
  writing_since_ns_.store(parts_.clock->NowNs());
  StartWriteAndFinish(&bytes_, grpc::WriteOptions(), ToGrpcStatus(status_, identity_.request_id));
}

void GenerateCall::AddStart(v1::GenerateResponse* response) {
  if (started_) return;
  started_ = true;
  context_->AddInitialMetadata(kRequestIdKey, identity_.request_id);
  if (!identity_.caller_request_id.empty()) {
    context_->AddInitialMetadata(kCallerRequestIdKey, identity_.caller_request_id);
  }
  v1::GenerateResponse::Start* start = response->mutable_start();
  start->set_request_id(identity_.request_id);
  start->set_model(parts_.model->name);
  start->set_seed(seed_);
  start->set_prompt_tokens(prompt_tokens_);
}

// The caller is gone. Where its time is up too, the engine ends the request for that reason, in the
// same step: gRPC cancels a call at its deadline, and the books should say which it was.
void GenerateCall::GiveUp() {
  constexpr int64_t kTimerSlackNs = 2'000'000;
  if (stream_ == nullptr) return;
  if (parts_.clock->NowNs() + kTimerSlackNs < deadline_ns_) stream_->Cancel();
}

void GenerateCall::FinishWith(absl::Status status) {
  status_ = std::move(status);
  AddTrailers(identity_, status_, context_);
  Finish(ToGrpcStatus(status_, identity_.request_id));
}

void GenerateCall::OnWriteDone(bool ok) {
  writing_since_ns_.store(0);
  if (!ok) {
    broken_ = true;
    GiveUp();
  }
  {
    absl::MutexLock lock(&mutex_);
    busy_ = false;
  }
  Pump();
}

void GenerateCall::OnDone() {
  if (stream_ != nullptr) stream_->SetReader(nullptr);
  parts_.counters->CountEnded(Method::kGenerate, static_cast<int>(status_.code()));
  if (!end_.has_value()) parts_.counters->CountRefused(status_);
  parts_.log->Write({.method = "Generate",
                     .identity = &identity_,
                     .status = &status_,
                     .ended_utc_ns = parts_.clock->UtcNs(),
                     .total_ns = parts_.clock->NowNs() - received_ns_,
                     .end = end_.has_value() ? &*end_ : nullptr});
  // Last: who sees no call left also sees its line in the log and its counts.
  parts_.calls->Remove(this);
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
