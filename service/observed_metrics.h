// ObservedMetrics: what gathers over time from the steps' records: histograms, and counters of
// ended requests. Fed on the books' thread, read by scrapes on the admin thread; what locks there
// are lie between those two, and the engine is never at one of them.
#pragma once

#include <prometheus/histogram.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "scheduler/step_records.h"
#include "service/metric_page.h"
#include "service/metric_table.h"
#include "service/tenant_totals.h"

namespace tuppence {

class ObservedMetrics {
 public:
  // The table outlives this.
  ObservedMetrics(const std::vector<MetricSpec>& table, size_t tenants_max);

  // Books' thread.
  void Observe(const StepRecord& record);
  void ObserveCommit(int64_t commit_ns);
  void ObserveClosing(int64_t delay_ns);

  struct Shown {
    bool store = false;  // there is one
    bool money = false;  // a rate is known: without one, cost is not zero but unknown
  };
  // Any thread.
  void AddTo(MetricPage* page, Shown shown) const;

 private:
  static constexpr int kOutcomes = 8;         // FinishReason
  static constexpr int kFinishedReasons = 4;  // vLLM's
  struct Counts {
    std::array<int64_t, kOutcomes> ended = {};
    std::array<int64_t, kFinishedReasons> finished = {};
    int64_t prefill_tokens = 0;
    int64_t cached_tokens = 0;
    int64_t recomputed_tokens = 0;
    int64_t generated_tokens = 0;
    int64_t written_off_ns = 0;
  };

  void ObserveSteps(const StepRecord& record);
  void ObserveEnded(const EndedRequest& ended);
  void ObserveTimes(const EndedRequest& ended);
  void CountRow(const EndedRequest& ended);
  void See(MetricId id, double value, size_t series = 0);
  void AddHistograms(Shown shown, MetricPage* page) const;
  void AddVllm(const Counts& counts, MetricPage* page) const;

  // By family, then series; made once. Each guards itself.
  std::map<MetricId, std::vector<std::unique_ptr<prometheus::Histogram>>> histograms_;
  mutable absl::Mutex mutex_;
  Counts counts_ ABSL_GUARDED_BY(mutex_);
  TenantTotals tenants_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tuppence
