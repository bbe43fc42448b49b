// Clock: where the scheduler gets its time from, so that tests can turn it by hand.
// Used by the engine, admission and the service. Implementations are safe to call on any thread.
#pragma once

#include <chrono>
#include <cstdint>

namespace tuppence {

class Clock {
 public:
  virtual ~Clock() = default;
  // Monotonic nanoseconds; every deadline and every interval of the ledger is on this axis.
  virtual int64_t NowNs() const = 0;
  // Nanoseconds since 1970 UTC. For records only: it may jump.
  virtual int64_t UtcNs() const = 0;
};

class SteadyClock final : public Clock {
 public:
  int64_t NowNs() const override { return Count(std::chrono::steady_clock::now()); }
  int64_t UtcNs() const override { return Count(std::chrono::system_clock::now()); }

 private:
  template <typename Time>
  static int64_t Count(Time time) {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
  }
};

}  // namespace tuppence
