// ServiceCounters: how many calls ended how, for /metrics. Counted by the calls, read by metrics;
// any thread, without a lock.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

namespace tuppence {

enum class Method : uint8_t { kGenerate, kTokenize, kDetokenize, kGetModel };
inline constexpr int kMethods = 4;
inline constexpr int kCodes = 17;  // gRPC's status codes
inline constexpr std::array<const char*, kMethods> kMethodNames = {"Generate", "Tokenize",
                                                                   "Detokenize", "GetModel"};

class ServiceCounters {
 public:
  void CountEnded(Method method, int code) { At(method, code).fetch_add(1); }
  int64_t ended(Method method, int code) const {
    return const_cast<ServiceCounters*>(this)->At(method, code).load();
  }

  // Money and machine time of finished requests.
  std::atomic<int64_t> machine_ns = 0;
  std::atomic<int64_t> cost_nanousd = 0;
  std::atomic<int64_t> stalled_calls = 0;  // cancelled because the caller took nothing

 private:
  std::atomic<int64_t>& At(Method method, int code) {
    return ended_[static_cast<int>(method)][code >= 0 && code < kCodes ? code : 2];  // UNKNOWN
  }
  std::array<std::array<std::atomic<int64_t>, kCodes>, kMethods> ended_ = {};
};

}  // namespace tuppence
