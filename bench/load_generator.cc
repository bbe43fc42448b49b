// See load_generator.h.
#include "bench/load_generator.h"

#include <grpcpp/grpcpp.h>
#include <sys/resource.h>

#include <chrono>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "bench/http_load.h"
#include "bench/open_calls.h"
#include "tuppence/v1/tuppence.grpc.pb.h"

namespace tuppence {
namespace {

double SecondsBetween(std::chrono::steady_clock::time_point from,
                      std::chrono::steady_clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) { return time.tv_sec + time.tv_usec * 1e-6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// One answer as it comes. Deletes itself when the call has ended.
class Call final : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Call(v1::GenerateRequest request, std::chrono::steady_clock::time_point due, LoadResult* result,
       OpenCalls* open)
      : request_(std::move(request)), due_(due), result_(result), open_(open) {}

  void Start(v1::Inference::Stub* stub, double timeout_seconds) {
    if (timeout_seconds > 0) {
      context_.set_deadline(std::chrono::system_clock::now() +
                            std::chrono::milliseconds(static_cast<int64_t>(timeout_seconds * 1e3)));
    }
    stub->async()->Generate(&context_, &request_, this);
    StartRead(&message_);
    StartCall();
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return;
    const std::chrono::steady_clock::time_point now = std::chrono::steady_clock::now();
    if (CarriesTokens()) {
      if (first_ == std::chrono::steady_clock::time_point()) {
        first_ = now;
        result_->time_to_first_token.Add(SecondsBetween(due_, now));
      } else {
        result_->inter_token.Add(SecondsBetween(last_, now));
      }
      last_ = now;
    }
    if (message_.has_usage()) usage_ = message_.usage();
    if (message_.has_cost()) cost_ = message_.cost();
    StartRead(&message_);
  }

  void OnDone(const grpc::Status& status) override {
    if (status.ok()) {
      Book();
    } else {
      const int code = status.error_code();
      result_->errors[code >= 0 && code <= 16 ? code : 2].fetch_add(1);
      if (WasRefused(status))
        result_->refusal.Add(SecondsBetween(due_, std::chrono::steady_clock::now()));
      absl::MutexLock lock(&result_->mutex);
      if (result_->first_error.empty()) {
        const absl::Status described = FromGrpc(status);
        result_->first_error = std::string(described.message());
      }
    }
    // The call's context goes before the last caller is reported gone: whoever waits for that may
    // take down the channels and end the process.
    OpenCalls* const open = open_;
    delete this;
    open->Leave();
  }

  bool WasRefused(const grpc::Status& status) const {
    return first_ == std::chrono::steady_clock::time_point() &&
           (status.error_code() == grpc::StatusCode::UNAVAILABLE ||
            status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
  }

  bool CarriesTokens() const {
    for (const v1::Choice& choice : message_.choices()) {
      if (!choice.text().empty() || choice.token_ids_size() > 0) return true;
    }
    return false;
  }

  void Book() {
    const std::chrono::steady_clock::time_point now = std::chrono::steady_clock::now();
    result_->end_to_end.Add(SecondsBetween(due_, now));
    if (usage_.completion_tokens() > 1 && first_ != std::chrono::steady_clock::time_point()) {
      result_->per_output_token.Add(SecondsBetween(first_, last_) /
                                    (usage_.completion_tokens() - 1));
    }
    result_->completed.fetch_add(1);
    result_->prompt_tokens.fetch_add(usage_.prompt_tokens());
    result_->completion_tokens.fetch_add(usage_.completion_tokens());
    result_->preemptions.fetch_add(usage_.preemptions());
    result_->machine_ns.fetch_add(cost_.machine_ns());
    if (cost_.has_cost_nanousd()) {
      result_->cost_nanousd.fetch_add(cost_.cost_nanousd());
      result_->priced.fetch_add(1);
    }
  }

  grpc::ClientContext context_;
  const v1::GenerateRequest request_;
  v1::GenerateResponse message_;
  const std::chrono::steady_clock::time_point due_;
  std::chrono::steady_clock::time_point first_;
  std::chrono::steady_clock::time_point last_;
  v1::Usage usage_;
  v1::Cost cost_;
  LoadResult* const result_;
  OpenCalls* const open_;
};

// Calls go round the connections in turn.
class Starter {
 public:
  static absl::StatusOr<Starter> Make(const TrafficOptions& options) {
    Starter starter;
    if (!options.http.empty()) {
      absl::StatusOr<std::unique_ptr<HttpLoad>> http = HttpLoad::Make(options.http);
      if (!http.ok()) return http.status();
      starter.http_ = *std::move(http);
      return starter;
    }
    starter.timeout_seconds_ = options.client.timeout_seconds;
    for (int lane = 0; lane < options.channels; ++lane) {
      absl::StatusOr<std::shared_ptr<grpc::Channel>> channel = MakeChannel(options.client, lane);
      if (!channel.ok()) return channel.status();
      starter.stubs_.push_back(v1::Inference::NewStub(*channel));
    }
    return starter;
  }

  void Start(v1::GenerateRequest request, std::chrono::steady_clock::time_point due,
             LoadResult* result, OpenCalls* open) {
    if (http_ != nullptr) return http_->Start(request, due, result, open);
    Call* call = new Call(std::move(request), due, result, open);  // deletes itself
    call->Start(stubs_[next_++ % stubs_.size()].get(), timeout_seconds_);
  }

 private:
  std::vector<std::unique_ptr<v1::Inference::Stub>> stubs_;
  std::unique_ptr<HttpLoad> http_;  // null: over gRPC
  size_t next_ = 0;
  double timeout_seconds_ = 0;
};

void RunClosedLoop(const TrafficOptions& options, int64_t requests, RequestMaker* maker,
                   Starter* starter, LoadResult* result) {
  OpenCalls open;
  for (int64_t i = 0; i < requests; ++i) {
    v1::GenerateRequest request = maker->Next();
    open.EnterBelow(options.concurrency);
    starter->Start(std::move(request), std::chrono::steady_clock::now(), result, &open);
  }
  open.WaitForNone();
  result->streams_most = open.most();
}

void RunOpenLoop(const TrafficOptions& options, RequestMaker* maker, Starter* starter,
                 LoadResult* result) {
  OpenCalls open;
  const std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  double due_seconds = maker->NextGapSeconds();
  while (due_seconds < options.seconds) {
    const std::chrono::steady_clock::time_point due =
        start + std::chrono::nanoseconds(static_cast<int64_t>(due_seconds * 1e9));
    v1::GenerateRequest request = maker->Next();
    std::this_thread::sleep_until(due);
    if (open.TryEnterBelow(options.outstanding_max)) {
      starter->Start(std::move(request), due, result, &open);
    } else {
      result->not_sent.fetch_add(1);
    }
    due_seconds += maker->NextGapSeconds();
  }
  open.WaitForNone();
  result->streams_most = open.most();
}

}  // namespace

int64_t LoadResult::errors_total() const {
  int64_t total = 0;
  for (const std::atomic<int64_t>& count : errors) total += count.load();
  return total;
}

absl::Status RunLoad(const TrafficOptions& options, int32_t vocab, LoadResult* result) {
  absl::StatusOr<Starter> starter = Starter::Make(options);
  if (!starter.ok()) return starter.status();
  RequestMaker maker(options, vocab);
  if (options.warmup > 0) {
    auto ignored = std::make_unique<LoadResult>();
    RunClosedLoop(options, options.warmup, &maker, &*starter, ignored.get());
  }
  const std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  const double cpu_start = CpuSeconds();
  if (options.rate > 0) {
    RunOpenLoop(options, &maker, &*starter, result);
  } else {
    RunClosedLoop(options, options.requests, &maker, &*starter, result);
  }
  result->wall_seconds = SecondsBetween(start, std::chrono::steady_clock::now());
  result->client_cpu_seconds = CpuSeconds() - cpu_start;
  return absl::OkStatus();
}

}  // namespace tuppence
