// ServiceCounters: how many calls ended how, for /metrics. Counted by the calls, read by metrics;
// any thread, without a lock but for refusals, which are few. The engine does not come here.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "scheduler/refusal.h"

namespace tuppence {

// The last five are HTTP's; its other routes count as what they are called over gRPC.
enum class Method : uint8_t {
  kGenerate,
  kTokenize,
  kDetokenize,
  kGetModel,
  kGetUsage,
  kChat,
  kCompletion,
  kFiles,
  kBatches,
  kOther
};
inline constexpr int kMethods = 10;
inline constexpr int kCodes = 17;  // gRPC's status codes
inline constexpr std::array<const char*, kMethods> kMethodNames = {
    "Generate",       "Tokenize",   "Detokenize", "GetModel", "GetUsage",
    "ChatCompletion", "Completion", "Files",      "Batches",  "Other"};

class ServiceCounters {
 public:
  void CountEnded(Method method, int code) { At(method, code).fetch_add(1); }
  int64_t ended(Method method, int code) const {
    return const_cast<ServiceCounters*>(this)->At(method, code).load();
  }

  // A call that ended with this status before the engine took it on. Reasons are our own, so they
  // stay few; without one it is "OTHER".
  void CountRefused(const absl::Status& status) {
    if (status.ok()) return;
    const std::optional<Refusal> refusal = RefusalOf(status);
    absl::MutexLock lock(&mutex_);
    ++refused_[refusal.has_value() ? refusal->reason : "OTHER"];
  }
  // By reason. Those that alerts watch are there from the start: what begins above 0 is lost to
  // increase().
  std::map<std::string, int64_t> refused() const {
    absl::MutexLock lock(&mutex_);
    return refused_;
  }

  std::atomic<int64_t> stalled_calls = 0;  // cancelled because the caller took nothing

 private:
  mutable absl::Mutex mutex_;
  std::map<std::string, int64_t> refused_ ABSL_GUARDED_BY(mutex_) = {
      {reason::kQueueFull, 0},       {reason::kTenantQueueFull, 0},
      {reason::kDraining, 0},        {reason::kEngineFailed, 0},
      {reason::kDeadline, 0},        {reason::kContextExceeded, 0},
      {reason::kTooLargeForPool, 0}, {"OTHER", 0}};

  std::atomic<int64_t>& At(Method method, int code) {
    return ended_[static_cast<int>(method)][code >= 0 && code < kCodes ? code : 2];  // UNKNOWN
  }
  std::array<std::array<std::atomic<int64_t>, kCodes>, kMethods> ended_ = {};
};

}  // namespace tuppence
