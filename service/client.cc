// See client.h.
#include "service/client.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "scheduler/refusal.h"
#include "service/answer_from_proto.h"
#include "service/call_identity.h"
#include "service/money.h"
#include "tuppence/v1/tuppence.grpc.pb.h"

namespace tuppence {
namespace {

absl::StatusOr<std::string> ReadPem(const std::string& flag, const std::string& path) {
  if (path.empty()) return std::string();
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) {
    return absl::NotFoundError(absl::StrCat(flag, ": cannot read '", path, "'; give a PEM file"));
  }
  return text.str();
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeCredentials(
    const ClientOptions& options) {
  if (options.tls_cert.empty() != options.tls_key.empty()) {
    return absl::InvalidArgumentError("--tls-cert and --tls-key belong together; give both");
  }
  if (options.tls_ca.empty() && options.tls_cert.empty()) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions ssl;
  const std::pair<const char*, std::pair<const std::string*, std::string*>> files[] = {
      {"--tls-ca", {&options.tls_ca, &ssl.pem_root_certs}},
      {"--tls-cert", {&options.tls_cert, &ssl.pem_cert_chain}},
      {"--tls-key", {&options.tls_key, &ssl.pem_private_key}}};
  for (const auto& [flag, path_and_text] : files) {
    absl::StatusOr<std::string> text = ReadPem(flag, *path_and_text.first);
    if (!text.ok()) return text.status();
    *path_and_text.second = *std::move(text);
  }
  return grpc::SslCredentials(ssl);
}

bool IsLoopback(const std::string& address) {
  return absl::StartsWith(address, "127.") || absl::StartsWith(address, "localhost") ||
         absl::StartsWith(address, "[::1]") || absl::StartsWith(address, "unix:");
}

std::string DetailText(const google::protobuf::Any& detail) {
  std::string text;
  google::rpc::BadRequest bad_request;
  google::rpc::QuotaFailure quota;
  google::rpc::RetryInfo retry;
  google::rpc::ErrorInfo info;
  google::rpc::RequestInfo request;
  v1::Cost cost;
  if (detail.UnpackTo(&bad_request)) {
    for (const auto& violation : bad_request.field_violations()) {
      absl::StrAppend(&text, "\n  ", violation.field(), ": ", violation.description());
    }
  } else if (detail.UnpackTo(&quota)) {
    for (const auto& violation : quota.violations()) {
      absl::StrAppend(&text, "\n  quota of ", violation.subject(), ": ", violation.description());
    }
  } else if (detail.UnpackTo(&retry)) {
    const double seconds = retry.retry_delay().seconds() + retry.retry_delay().nanos() * 1e-9;
    absl::StrAppend(&text, absl::StrFormat("\n  try again in %.3g s", seconds));
  } else if (detail.UnpackTo(&info)) {
    absl::StrAppend(&text, "\n  reason: ", info.reason());
  } else if (detail.UnpackTo(&request)) {
    absl::StrAppend(&text, "\n  request id: ", request.request_id());
  } else if (detail.UnpackTo(&cost)) {
    absl::StrAppend(&text, absl::StrFormat("\n  booked: %.6f s of machine time",
                                           1e-9 * static_cast<double>(cost.machine_ns())));
    if (cost.has_cost_nanousd()) {
      absl::StrAppend(&text, ", ", FormatUsd(cost.cost_nanousd()), " USD");
    }
  }
  return text;
}

Refusal RefusalOf(const google::rpc::Status& details) {
  Refusal refusal;
  google::rpc::RetryInfo retry;
  google::rpc::ErrorInfo info;
  for (const google::protobuf::Any& detail : details.details()) {
    if (detail.UnpackTo(&retry)) {
      refusal.retry_after_ms =
          retry.retry_delay().seconds() * 1000 + retry.retry_delay().nanos() / 1'000'000;
    } else if (detail.UnpackTo(&info)) {
      refusal.reason = info.reason();
    }
  }
  return refusal;
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const ClientOptions& options, int lane) {
  absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> credentials = MakeCredentials(options);
  if (!credentials.ok()) return credentials.status();
  grpc::ChannelArguments arguments;
  // Not retried behind the user's back: an answer that failed says so.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, -1);
  // An http_proxy in the environment cannot reach this machine's loopback.
  if (IsLoopback(options.address)) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // Channels with equal arguments share a connection.
  arguments.SetInt("tuppence.lane", lane);
  return grpc::CreateCustomChannel(options.address, *credentials, arguments);
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  std::string text = status.error_message();
  google::rpc::Status details;
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  if (!status.error_details().empty() && details.ParseFromString(status.error_details())) {
    for (const google::protobuf::Any& detail : details.details()) text += DetailText(detail);
    absl::Status told = RefusalStatus(code, text, RefusalOf(details));
    for (const google::protobuf::Any& detail : details.details()) {
      if (detail.Is<v1::Usage>() || detail.Is<v1::Cost>()) {
        told.SetPayload(detail.type_url(), absl::Cord(detail.value()));
      }
    }
    return told;
  } else if (status.error_code() == grpc::StatusCode::UNAVAILABLE) {
    // Without details it did not come from the service: nobody answered.
    text += "\n  is the service running, and is this its address? (tuppence serve --model DIR)";
  }
  return absl::Status(code, text);
}

std::optional<RequestEnd> BookedOf(const absl::Status& status) {
  v1::Usage usage;
  v1::Cost cost;
  for (google::protobuf::Message* part : {static_cast<google::protobuf::Message*>(&usage),
                                          static_cast<google::protobuf::Message*>(&cost)}) {
    const auto payload =
        status.GetPayload(absl::StrCat("type.googleapis.com/", part->GetTypeName()));
    if (!payload.has_value() || !part->ParseFromString(std::string(*payload))) return std::nullopt;
  }
  RequestEnd end;
  end.usage = UsageFromProto(usage);
  end.cost = CostFromProto(cost);
  return end;
}

class Client::Impl {
 public:
  Impl(std::shared_ptr<grpc::Channel> channel, double timeout_seconds, std::string key)
      : stub_(v1::Inference::NewStub(std::move(channel))),
        timeout_seconds_(timeout_seconds),
        key_(std::move(key)) {}

  // Runs call(context, stub) with a context that Cancel can reach meanwhile.
  template <typename Call>
  absl::Status Run(const Call& call) {
    grpc::ClientContext context;
    if (!key_.empty()) context.AddMetadata("authorization", absl::StrCat("Bearer ", key_));
    if (timeout_seconds_ > 0) {
      context.set_deadline(std::chrono::system_clock::now() +
                           std::chrono::microseconds(static_cast<int64_t>(timeout_seconds_ * 1e6)));
    }
    SetCurrent(&context);
    const grpc::Status status = call(&context, stub_.get());
    SetCurrent(nullptr);
    return FromGrpc(status);
  }

  bool Cancel() {
    absl::MutexLock lock(&mutex_);
    if (current_ == nullptr) return false;
    current_->TryCancel();
    return true;
  }

 private:
  void SetCurrent(grpc::ClientContext* context) {
    absl::MutexLock lock(&mutex_);
    current_ = context;
  }

  const std::unique_ptr<v1::Inference::Stub> stub_;
  const double timeout_seconds_;
  const std::string key_;
  absl::Mutex mutex_;
  grpc::ClientContext* current_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

absl::StatusOr<std::unique_ptr<Client>> Client::Make(const ClientOptions& options) {
  absl::StatusOr<std::shared_ptr<grpc::Channel>> channel = MakeChannel(options);
  if (!channel.ok()) return channel.status();
  return std::make_unique<Client>(*std::move(channel), options.timeout_seconds, options.key);
}

Client::Client(std::shared_ptr<grpc::Channel> channel, double timeout_seconds, std::string key)
    : impl_(std::make_unique<Impl>(std::move(channel), timeout_seconds, std::move(key))) {}

Client::~Client() = default;

bool Client::Cancel() { return impl_->Cancel(); }

absl::Status Client::Generate(const v1::GenerateRequest& request,
                              const std::function<void(const v1::GenerateResponse&)>& on_message,
                              const std::string& name) {
  return impl_->Run([&](grpc::ClientContext* context, v1::Inference::Stub* stub) {
    if (!name.empty()) {
      context->AddMetadata(kCallerRequestIdKey, name);
      context->AddMetadata(kIdempotencyKey, name);
    }
    const auto reader = stub->Generate(context, request);
    v1::GenerateResponse message;
    while (reader->Read(&message)) on_message(message);
    return reader->Finish();
  });
}

absl::Status Client::Tokenize(const v1::TokenizeRequest& request, v1::TokenizeResponse* response) {
  return impl_->Run([&](grpc::ClientContext* context, v1::Inference::Stub* stub) {
    return stub->Tokenize(context, request, response);
  });
}

absl::Status Client::Detokenize(const v1::DetokenizeRequest& request,
                                v1::DetokenizeResponse* response) {
  return impl_->Run([&](grpc::ClientContext* context, v1::Inference::Stub* stub) {
    return stub->Detokenize(context, request, response);
  });
}

absl::Status Client::GetModel(v1::GetModelResponse* response) {
  return impl_->Run([&](grpc::ClientContext* context, v1::Inference::Stub* stub) {
    return stub->GetModel(context, v1::GetModelRequest(), response);
  });
}

absl::Status Client::GetUsage(const std::string& request_id, v1::GetUsageResponse* response) {
  return impl_->Run([&](grpc::ClientContext* context, v1::Inference::Stub* stub) {
    v1::GetUsageRequest request;
    request.set_request_id(request_id);
    return stub->GetUsage(context, request, response);
  });
}

}  // namespace tuppence
