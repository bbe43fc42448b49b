#include "service/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "scheduler/clock.h"
#include "scheduler/engine.h"
#include "service/bookkeeper.h"
#include "service/call_registry.h"
#include "service/generate_call.h"
#include "service/listening.h"
#include "service/service_counters.h"
#include "service/token_calls.h"
#include "service/usage_call.h"
#include "tuppence/v1/tuppence.grpc.pb.h"

namespace tuppence {
namespace {

constexpr int64_t kWatchNs = 100'000'000;
constexpr char kServiceName[] = "tuppence.v1.Inference";

// Raw methods: requests arrive as bytes, see rpc_call.
using RawService = v1::Inference::WithRawCallbackMethod_Generate<
    v1::Inference::WithRawCallbackMethod_Tokenize<v1::Inference::WithRawCallbackMethod_Detokenize<
        v1::Inference::WithRawCallbackMethod_GetModel<
            v1::Inference::WithRawCallbackMethod_GetUsage<v1::Inference::Service>>>>>;

class InferenceService final : public RawService {
 public:
  explicit InferenceService(const ServiceParts& parts) : parts_(parts) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override {
    return StartGenerate(parts_, context, request);
  }
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override {
    return AnswerTokenize(parts_, context, request, response);
  }
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override {
    return AnswerDetokenize(parts_, context, request, response);
  }
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override {
    return AnswerGetModel(parts_, context, request, response);
  }
  grpc::ServerUnaryReactor* GetUsage(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override {
    return AnswerGetUsage(parts_, context, request, response);
  }

 private:
  const ServiceParts parts_;
};

int Milliseconds(int64_t ns) {
  return static_cast<int>(std::min<int64_t>(ns / 1'000'000, std::numeric_limits<int>::max()));
}

void SetLimits(const ServerOptions& options, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(static_cast<int>(options.message_bytes_max));
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE,
                              static_cast<int>(options.metadata_bytes_max));
  // gRPC 1.51 inflates a message before it looks at its size: a gzip bomb of 3.5 MB became 3.8 GB.
  builder->SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  builder->SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(options.keepalive_ns));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                              Milliseconds(options.keepalive_timeout_ns));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5000);
  if (options.connection_age_max_ns > 0) {
    builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS,
                                Milliseconds(options.connection_age_max_ns));
  }
  // Two servers that share a port by accident would each get half of the calls.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> Credentials(const TlsFiles& files) {
  if (files.certificate.empty() && files.key.empty() && files.client_ca.empty()) {
    return grpc::InsecureServerCredentials();
  }
  if (files.certificate.empty() || files.key.empty()) {
    return absl::InvalidArgumentError(
        "TLS needs both --tls-cert and --tls-key (and --tls-client-ca to ask clients for theirs)");
  }
  absl::StatusOr<TlsMaterial> material = ReadTls(files);
  if (!material.ok()) return material.status();
  grpc::SslServerCredentialsOptions ssl(
      material->client_ca.empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                  : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  ssl.pem_root_certs = material->client_ca;
  ssl.pem_key_cert_pairs.push_back({material->key, material->certificate});
  return grpc::SslServerCredentials(ssl);
}

}  // namespace

class Server::Impl {
 public:
  Impl(const ServerOptions& options, const ServiceParts& parts)
      : options_(options), parts_(parts), service_(parts) {}

  absl::Status Start() {
    static const bool plugins = [] {  // once in a process, before the first builder
      grpc::EnableDefaultHealthCheckService(true);
      grpc::reflection::InitProtoReflectionServerBuilderPlugin();
      return true;
    }();
    (void)plugins;
    grpc::ServerBuilder builder;
    SetLimits(options_, &builder);
    if (options_.listen) {
      auto credentials = Credentials(options_.tls);
      if (!credentials.ok()) return credentials.status();
      builder.AddListeningPort(AddressText(options_.host, options_.port), *credentials, &port_);
    }
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || (options_.listen && port_ == 0)) {
      // gRPC says only that it could not; trying again gives the reason.
      const absl::Status why = TryListening(kGrpcDoor, options_.host, options_.port);
      if (!why.ok()) return why;
      return absl::UnavailableError(absl::StrCat("cannot listen for gRPC on ",
                                                 AddressText(options_.host, options_.port),
                                                 ": the address was not bound"));
    }
    UpdateHealth();
    watch_ = std::thread([this] { Watch(); });
    return absl::OkStatus();
  }

  void Stop(int64_t grace_ns) {
    if (server_ == nullptr) return;
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::nanoseconds(grace_ns));
    server_->Wait();
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
    }
    watch_.join();
    server_.reset();
  }

  void SetNotServing() {
    {
      absl::MutexLock lock(&mutex_);
      not_serving_ = true;
    }
    UpdateHealth();
  }

  Readiness readiness() const {
    Readiness verdict =
        JudgeReadiness(parts_.engine->Snapshot(), parts_.clock->NowNs(), options_.hang_ns);
    absl::MutexLock lock(&mutex_);
    if (not_serving_ && verdict.ready) {
      verdict.ready = false;
      verdict.reason = "the service is draining and takes no new requests";
    }
    if (parts_.books == nullptr || !verdict.ready) return verdict;
    if (const absl::Status may_record = parts_.books->MayRecord(); !may_record.ok()) {
      verdict.ready = false;
      verdict.reason = std::string(may_record.message());
    }
    return verdict;
  }

  int port() const { return port_; }
  bool uses_tls() const { return !options_.tls.certificate.empty(); }
  std::shared_ptr<grpc::Channel> InProcessChannel() {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);  // prompt log-probabilities come in one piece
    return server_->InProcessChannel(arguments);
  }

 private:
  void UpdateHealth() {
    const Readiness verdict = readiness();
    grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
    health->SetServingStatus("", verdict.live);
    health->SetServingStatus("liveness", verdict.live);
    health->SetServingStatus("readiness", verdict.ready);
    health->SetServingStatus(kServiceName, verdict.ready);
  }

  void Watch() {
    while (true) {
      {
        absl::MutexLock lock(&mutex_);
        mutex_.AwaitWithTimeout(absl::Condition(&stopping_), absl::Nanoseconds(kWatchNs));
        if (stopping_) return;
      }
      UpdateHealth();
      parts_.counters->stalled_calls.fetch_add(
          parts_.calls->CutOffWritesBefore(parts_.clock->NowNs() - options_.stall_ns));
    }
  }

  const ServerOptions options_;
  const ServiceParts parts_;
  InferenceService service_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
  std::thread watch_;
  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool not_serving_ ABSL_GUARDED_BY(mutex_) = false;
};

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() { Stop(0); }

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options,
                                                      const ServiceParts& parts) {
  auto impl = std::make_unique<Impl>(options, parts);
  if (absl::Status status = impl->Start(); !status.ok()) return status;
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

int Server::port() const { return impl_->port(); }
bool Server::uses_tls() const { return impl_->uses_tls(); }
Readiness Server::readiness() const { return impl_->readiness(); }
std::shared_ptr<grpc::Channel> Server::InProcessChannel() { return impl_->InProcessChannel(); }
void Server::SetNotServing() { impl_->SetNotServing(); }
void Server::Stop(int64_t grace_ns) { impl_->Stop(grace_ns); }

}  // namespace tuppence
