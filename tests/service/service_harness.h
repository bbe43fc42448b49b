// ServiceHarness: a whole service in the test's process, on a port of its own: real server, engine,
// admission and the demo model's tokenizer, in front of an executor that makes tokens by a hash and
// takes the time it is told to. Used by every test of the service.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "gtest/gtest.h"
#include "scheduler/admission.h"
#include "scheduler/clock.h"
#include "scheduler/engine.h"
#include "scheduler/null_executor.h"
#include "service/answer_keys.h"
#include "service/api_keys.h"
#include "service/batch_jobs.h"
#include "service/call_registry.h"
#include "service/file_store.h"
#include "service/http_server.h"
#include "service/metrics.h"
#include "service/request_log.h"
#include "service/served_model.h"
#include "service/server.h"
#include "service/service_counters.h"
#include "service/service_parts.h"
#include "service/tenant_rates.h"
#include "service/tenants.h"
#include "tests/service/ongoing_call.h"

namespace tuppence {

// The ends of a parameter's range on the wire.
constexpr int32_t kLowest = std::numeric_limits<int32_t>::min();
constexpr int32_t kHighest = std::numeric_limits<int32_t>::max();

// Tokens of NullExecutor, each step held up for a time, or altogether, or failing.
class PacedExecutor final : public StepExecutor {
 public:
  explicit PacedExecutor(int32_t vocab) : tokens_(vocab) {}
  void Launch(const BlockWork& blocks, const Batch& batch,
              std::span<const SamplingRow> sampling) override {
    tokens_.Launch(blocks, batch, sampling);
  }
  absl::Status Wait(std::span<SampledToken> tokens) override;

  std::atomic<int64_t> step_us = 0;
  std::atomic<bool> held = false;     // steps wait while it is set
  std::atomic<bool> failing = false;  // the next step fails, as a broken device would
  std::atomic<bool> not_finite = false;

 private:
  NullExecutor tokens_;
};

struct HarnessOptions {
  ServerOptions server;  // the port is replaced by a free one
  HttpServerOptions http;
  CallLimits limits;
  AdmissionLimits admission;
  EngineOptions engine;
  bool tokenizer = true;
  std::string tenants;         // a file; "": all are alike
  std::string keys;            // a file; "": nobody needs one
  Budgets* budgets = nullptr;  // outlives the harness
  std::string usage_store;     // of another process, as it were; "": none
  std::string files_dir;       // "": no files, no batches
  int64_t files_bytes_max = int64_t{1} << 30;
  int64_t files_keep_seconds = 0;  // 0: until they are deleted
  BatchJobsOptions jobs;
  std::string chat_template = "auto";  // "none": text without chat

  HarnessOptions();
};

class ServiceHarness {
 public:
  explicit ServiceHarness(HarnessOptions options = {});
  ~ServiceHarness();

  std::unique_ptr<OngoingCall> Start(const v1::GenerateRequest& request, CallOptions options = {});
  // Starts, and waits for the end.
  std::unique_ptr<OngoingCall> Generate(const v1::GenerateRequest& request,
                                        CallOptions options = {});
  template <typename Request, typename Response>
  CallEnd Call(const char* method, const Request& request, Response* response,
               CallOptions options = {}) {
    std::string bytes;
    CallEnd end = CallBytes(method, request.SerializeAsString(), &bytes, options);
    if (end.code == kOk) response->ParseFromString(bytes);
    return end;
  }
  CallEnd CallBytes(const std::string& method, const std::string& request,
                    std::string* response = nullptr, CallOptions options = {});

  // What every bad input must leave behind: nothing held, nothing open, and the next good request
  // answered as the first one was.
  void ExpectUnharmed();
  void ExpectAtRest();  // waits for it, a few seconds

  // A good request for four tokens, and its parts.
  static v1::GenerateRequest GoodRequest();

  std::shared_ptr<grpc::Channel> channel() { return channel_; }
  std::string address() const;
  std::string log() const {
    absl::MutexLock lock(&log_mutex_);
    return log_text_;
  }

  SteadyClock clock;
  ServedModel model;
  PacedExecutor executor;
  AdmissionControl admission;
  std::unique_ptr<Tenants> tenants;
  std::unique_ptr<ApiKeys> keys;
  TenantRates rates;
  Engine engine;
  AnswerKeys answer_keys;
  CallRegistry calls;
  ServiceCounters counters;
  Metrics metrics;

 private:
  mutable absl::Mutex log_mutex_;
  std::string log_text_ ABSL_GUARDED_BY(log_mutex_);

 public:
  RequestLog log_lines;
  ServiceParts parts;
  std::unique_ptr<FileStore> files;
  std::unique_ptr<BatchJobs> jobs;
  std::unique_ptr<Server> server;
  std::unique_ptr<HttpServer> http;

 private:
  std::shared_ptr<grpc::Channel> channel_;
  std::vector<int32_t> good_answer_;
};

// The demo checkpoint of this repository.
std::string DemoCheckpoint();

// deploy/examples/service_config.json, as it stands.
std::string ServiceConfigOfTheExample();

// A new channel to an address, plain text, with its own connection; keepalive and limits off.
std::shared_ptr<grpc::Channel> NewChannel(const std::string& address,
                                          const std::string& service_config = "");

// Waits until the condition holds, 5 seconds at most; the test fails if it never does.
void WaitFor(const std::function<bool()>& condition);

}  // namespace tuppence
