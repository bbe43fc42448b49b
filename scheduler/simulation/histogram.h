// Histogram: durations in buckets 1 % apart, from a microsecond to a quarter of an hour, so that a
// load of any length fits a fixed memory and many threads add without a lock. Used by the planner's
// simulation, which foretells what callers see, and by serve_bench, which measures it.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>

namespace tuppence {

class Histogram {
 public:
  void Add(double seconds, int64_t times = 1) {
    const double steps = std::log(std::max(seconds, kSecondsMin) / kSecondsMin) / kLogStep;
    const int bucket = std::min(static_cast<int>(steps), kBuckets - 1);
    counts_[bucket].fetch_add(times, std::memory_order_relaxed);
    sum_ns_.fetch_add(static_cast<int64_t>(seconds * 1e9) * times, std::memory_order_relaxed);
  }

  void Add(const Histogram& other) {
    for (int bucket = 0; bucket < kBuckets; ++bucket) counts_[bucket] += other.counts_[bucket];
    sum_ns_ += other.sum_ns_;
  }

  int64_t count() const {
    int64_t count = 0;
    for (const std::atomic<int64_t>& bucket : counts_) count += bucket.load();
    return count;
  }

  double mean_seconds() const {
    const int64_t samples = count();
    return samples == 0 ? 0 : 1e-9 * sum_ns_.load() / samples;
  }

  // The middle of the bucket in which the quantile lies: right to 0.5 %. 0 without samples.
  double Quantile(double quantile) const {
    const int64_t samples = count();
    if (samples == 0) return 0;
    int64_t left = std::max<int64_t>(1, std::llround(std::ceil(quantile * samples)));
    int bucket = 0;
    while (bucket < kBuckets - 1 && (left -= counts_[bucket].load()) > 0) ++bucket;
    return kSecondsMin * std::exp((bucket + 0.5) * kLogStep);
  }

 private:
  static constexpr double kSecondsMin = 1e-6;
  static constexpr double kLogStep = 0.00995033;  // log(1.01)
  static constexpr int kBuckets = 2080;           // up to 1e-6 * 1.01^2080 = 976 s

  std::array<std::atomic<int64_t>, kBuckets> counts_ = {};
  std::atomic<int64_t> sum_ns_ = 0;
};

}  // namespace tuppence
