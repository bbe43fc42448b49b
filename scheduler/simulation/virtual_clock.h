// VirtualClock: time that moves when its owner says so: a simulated device by the length of a step,
// a simulation by the wait until something happens, a test by hand. Safe on any thread, as every
// Clock.
#pragma once

#include <atomic>
#include <cstdint>

#include "scheduler/clock.h"

namespace tuppence {

class VirtualClock final : public Clock {
 public:
  explicit VirtualClock(int64_t now_ns = 1'000'000) : now_ns_(now_ns) {}

  int64_t NowNs() const override { return now_ns_.load(std::memory_order_relaxed); }
  int64_t UtcNs() const override {
    return NowNs() + utc_offset_ns_.load(std::memory_order_relaxed);
  }
  void Advance(int64_t ns) { now_ns_.fetch_add(ns, std::memory_order_relaxed); }
  // Never backwards: a moment that has passed changes nothing.
  void AdvanceTo(int64_t now_ns) {
    if (now_ns > NowNs()) now_ns_.store(now_ns, std::memory_order_relaxed);
  }
  // The clock on the wall jumps, the monotonic one does not.
  void JumpUtc(int64_t ns) { utc_offset_ns_.fetch_add(ns, std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> now_ns_;
  std::atomic<int64_t> utc_offset_ns_ = 0;
};

}  // namespace tuppence
