// Metrics: what /metrics says. Gauges and most counters are read at scrape time from snapshots and
// atomics; histograms and what belongs to ended requests gather from the steps' records, on the
// books' thread. No step waits for a scrape: of the locks that one takes the engine knows two, of
// its snapshot and of its rate card, and only tries them. The others are the books', the store's,
// the budgets' and the counters', which callers and the books' thread take.
// Made by serve; the table of all families is metric_table.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "service/account_money.h"
#include "service/capacity.h"
#include "service/metric_page.h"
#include "service/metric_table.h"
#include "service/observed_metrics.h"
#include "service/record_observer.h"
#include "service/service_parts.h"

namespace tuppence {

class Clock;
struct EngineSnapshot;
struct StoreState;

struct MetricsOptions {
  std::string model_name;
  int32_t context_tokens = 4096;
  CapacityLimits capacity = {};
  size_t tenants_max = 50;  // with labels of their own; the rest are "other"
  // Added to the conservation error that is shown, so that its alert can be seen to fire.
  int64_t conservation_drill_ns = 0;
};

class Metrics final : public RecordObserver {
 public:
  // The clock outlives this.
  Metrics(const MetricsOptions& options, const Clock* clock);

  // Books' thread.
  void Observe(const StepRecord& record) override;
  void ObserveCommit(int64_t commit_ns, int64_t rows) override;
  void ObserveClosing(int64_t delay_ns) override;

  // In Prometheus's text format. Any thread, as a rule the admin server's.
  std::string Format(const ServiceParts& parts);

  // Accounts against the clock, over closed periods and up to now; 0, or the ledger has a fault.
  int64_t ConservationErrorNs(const EngineSnapshot& engine) const;
  double CapacityUsedRatio(const EngineSnapshot& engine);

 private:
  void CheckPeriod(const Period& period) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether money is known.
  bool AddBooks(const ServiceParts& parts, const EngineSnapshot& engine, MetricPage* page);

  const MetricsOptions options_;
  const Clock* const clock_;
  const std::vector<MetricSpec> table_;
  const MetricFrame frame_;
  ObservedMetrics observed_;

  mutable absl::Mutex mutex_;  // books' and admin thread's
  AccountMoney money_ ABSL_GUARDED_BY(mutex_);
  CapacityMeter capacity_ ABSL_GUARDED_BY(mutex_);
  int64_t periods_error_ns_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t periods_end_ns_ ABSL_GUARDED_BY(mutex_) = -1;
};

// parts.metrics->Format(parts).
std::string FormatMetrics(const ServiceParts& parts);

}  // namespace tuppence
