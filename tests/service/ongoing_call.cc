#include "tests/service/ongoing_call.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/error_details.h>

#include <chrono>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "model/check.h"
#include "tuppence/v1/tuppence.grpc.pb.h"

namespace tuppence {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(20);

std::multimap<std::string, std::string> Copy(
    const std::multimap<grpc::string_ref, grpc::string_ref>& metadata) {
  std::multimap<std::string, std::string> copy;
  for (const auto& [key, value] : metadata) {
    copy.emplace(std::string(key.data(), key.size()), std::string(value.data(), value.size()));
  }
  return copy;
}

void Prepare(const CallOptions& options, grpc::ClientContext* context) {
  if (options.deadline_ms.has_value()) {
    context->set_deadline(std::chrono::system_clock::now() +
                          std::chrono::milliseconds(*options.deadline_ms));
  }
  for (const auto& [key, value] : options.metadata) context->AddMetadata(key, value);
  if (options.gzip) context->set_compression_algorithm(GRPC_COMPRESS_GZIP);
}

void ReadDetail(const google::protobuf::Any& detail, CallEnd* end) {
  google::rpc::BadRequest bad;
  google::rpc::ErrorInfo info;
  google::rpc::RetryInfo retry;
  google::rpc::QuotaFailure quota;
  google::rpc::RequestInfo request;
  v1::Usage usage;
  v1::Cost cost;
  if (detail.UnpackTo(&bad)) {
    for (const auto& violation : bad.field_violations()) {
      end->violations.push_back({violation.field(), violation.description()});
    }
  } else if (detail.UnpackTo(&info)) {
    end->reason = info.reason();
    end->domain = info.domain();
    end->metadata.insert(info.metadata().begin(), info.metadata().end());
  } else if (detail.UnpackTo(&retry)) {
    end->retry_ms = retry.retry_delay().seconds() * 1000 + retry.retry_delay().nanos() / 1'000'000;
  } else if (detail.UnpackTo(&quota)) {
    end->quota_subject = quota.violations(0).subject();
  } else if (detail.UnpackTo(&request)) {
    end->request_id = request.request_id();
  } else if (detail.UnpackTo(&usage)) {
    end->usage = usage;
  } else if (detail.UnpackTo(&cost)) {
    end->cost = cost;
  }
}

CallEnd EndOf(const grpc::Status& status, const grpc::ClientContext& context) {
  CallEnd end;
  end.code = status.error_code();
  end.message = status.error_message();
  google::rpc::Status rpc;
  if (!status.error_details().empty() && grpc::ExtractErrorDetails(status, &rpc).ok()) {
    for (const google::protobuf::Any& detail : rpc.details()) ReadDetail(detail, &end);
  }
  end.initial = Copy(context.GetServerInitialMetadata());
  end.trailing = Copy(context.GetServerTrailingMetadata());
  return end;
}

}  // namespace

class OngoingCall::Reactor final : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Reactor(std::shared_ptr<grpc::Channel> channel, const v1::GenerateRequest& request,
          const CallOptions& options)
      : request_(request), stub_(channel) {
    Prepare(options, &context_);
    stub_.async()->Generate(&context_, &request_, this);
    AddHold();  // until reading begins
    if (options.read) Resume();
    StartCall();
  }

  void Resume() {
    StartRead(&incoming_);
    RemoveHold();
    reading_ = true;
  }
  void Cancel() {
    context_.TryCancel();
    if (!reading_) {
      RemoveHold();
      reading_ = true;
    }
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    {
      absl::MutexLock lock(&mutex_);
      messages_.push_back(std::move(incoming_));
    }
    incoming_.Clear();
    StartRead(&incoming_);
  }
  void OnDone(const grpc::Status& status) override {
    CallEnd end = EndOf(status, context_);
    absl::MutexLock lock(&mutex_);
    end_ = std::move(end);
    done_ = true;
  }

  bool WaitForMessages(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto enough = [this, count]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
      return messages_.size() >= count || done_;
    };
    mutex_.AwaitWithTimeout(absl::Condition(&enough), kPatience);
    return messages_.size() >= count;
  }
  const CallEnd& Wait() {
    absl::MutexLock lock(&mutex_);
    CHECK(mutex_.AwaitWithTimeout(absl::Condition(&done_), 3 * kPatience));
    return end_;
  }
  const std::vector<v1::GenerateResponse>& messages() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return messages_;
  }

 private:
  const v1::GenerateRequest request_;
  v1::Inference::Stub stub_;
  grpc::ClientContext context_;
  bool reading_ = false;
  v1::GenerateResponse incoming_;
  absl::Mutex mutex_;
  std::vector<v1::GenerateResponse> messages_ ABSL_GUARDED_BY(mutex_);
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  CallEnd end_ ABSL_GUARDED_BY(mutex_);
};

OngoingCall::OngoingCall(std::shared_ptr<grpc::Channel> channel, const v1::GenerateRequest& request,
                         const CallOptions& options)
    : reactor_(std::make_unique<Reactor>(std::move(channel), request, options)) {}

OngoingCall::~OngoingCall() {
  reactor_->Cancel();
  reactor_->Wait();
}

void OngoingCall::Cancel() { reactor_->Cancel(); }
void OngoingCall::Resume() { reactor_->Resume(); }
bool OngoingCall::WaitForMessages(size_t count) { return reactor_->WaitForMessages(count); }
const CallEnd& OngoingCall::Wait() { return reactor_->Wait(); }

const std::vector<v1::GenerateResponse>& OngoingCall::messages() const {
  return reactor_->messages();
}

std::string OngoingCall::text(int choice) const {
  std::string text;
  for (const v1::GenerateResponse& message : messages()) {
    for (const v1::Choice& part : message.choices()) {
      if (part.index() == choice) text += part.text();
    }
  }
  return text;
}

std::vector<int32_t> OngoingCall::token_ids(int choice) const {
  std::vector<int32_t> ids;
  for (const v1::GenerateResponse& message : messages()) {
    for (const v1::Choice& part : message.choices()) {
      if (part.index() != choice) continue;
      ids.insert(ids.end(), part.token_ids().begin(), part.token_ids().end());
    }
  }
  return ids;
}

v1::FinishReason OngoingCall::finish_reason(int choice) const {
  v1::FinishReason reason = v1::FINISH_REASON_UNSPECIFIED;
  for (const v1::GenerateResponse& message : messages()) {
    for (const v1::Choice& part : message.choices()) {
      if (part.index() == choice && part.finish_reason() != v1::FINISH_REASON_UNSPECIFIED) {
        reason = part.finish_reason();
      }
    }
  }
  return reason;
}

const v1::Usage& OngoingCall::usage() const { return messages().back().usage(); }
const v1::Cost& OngoingCall::cost() const { return messages().back().cost(); }
const v1::GenerateResponse::Start& OngoingCall::start() const { return messages().front().start(); }

CallEnd CallWithBytes(const std::shared_ptr<grpc::Channel>& channel, const std::string& path,
                      const std::string& request, std::string* response,
                      const CallOptions& options) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  Prepare(options, &context);
  const grpc::Slice slice(request);
  const grpc::ByteBuffer bytes(&slice, 1);
  grpc::ByteBuffer answer;
  grpc::Status status;
  absl::Mutex mutex;
  bool done = false;
  stub.UnaryCall(&context, path, grpc::StubOptions(), &bytes, &answer, [&](grpc::Status result) {
    absl::MutexLock lock(&mutex);
    status = std::move(result);
    done = true;
  });
  {
    absl::MutexLock lock(&mutex);
    CHECK(mutex.AwaitWithTimeout(absl::Condition(&done), kPatience));
  }
  grpc::Slice whole;
  if (response != nullptr && status.ok() && answer.DumpToSingleSlice(&whole).ok()) {
    response->assign(reinterpret_cast<const char*>(whole.begin()), whole.size());
  }
  return EndOf(status, context);
}

}  // namespace tuppence
