// MetricsPageTest: Metrics in front of an engine that is driven step by step, each step taking a
// millisecond of a clock turned by hand; and its page, by sample. Used by the tests of /metrics.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "scheduler/admission.h"
#include "scheduler/engine.h"
#include "scheduler/null_executor.h"
#include "service/call_registry.h"
#include "service/metrics.h"
#include "service/served_model.h"
#include "service/service_counters.h"
#include "service/store_state.h"
#include "tests/support/fake_clock.h"

namespace tuppence {

// NullExecutor, each step taking a millisecond of a clock turned by hand.
class TimedExecutor final : public StepExecutor {
 public:
  explicit TimedExecutor(FakeClock* clock) : tokens_(97), clock_(clock) {}
  void Launch(const BlockWork& blocks, const Batch& batch,
              std::span<const SamplingRow> sampling) override {
    tokens_.Launch(blocks, batch, sampling);
  }
  absl::Status Wait(std::span<SampledToken> tokens) override {
    clock_->Advance(kStepNs);
    if (failing) return absl::InternalError("the device was lost");
    const absl::Status status = tokens_.Wait(tokens);
    for (SampledToken& token : tokens) token.not_finite |= not_finite;
    return status;
  }
  std::optional<double> watts() const override { return kWatts; }

  static constexpr int64_t kStepNs = 1'000'000;
  static constexpr double kWatts = 70;

  bool failing = false;
  bool not_finite = false;

 private:
  NullExecutor tokens_;
  FakeClock* clock_;
};

// A page, by sample: "name{labels}" without model_name and engine, to its value.
std::map<std::string, double> Samples(const std::string& page);

class MetricsPageTest : public ::testing::Test {
 protected:
  static constexpr int64_t kStepNs = TimedExecutor::kStepNs;
  static constexpr double kWatts = TimedExecutor::kWatts;

  explicit MetricsPageTest(size_t tenants_max = 50)
      : records_(64, 8),
        executor_(&clock_),
        engine_(Options(&records_), &executor_, nullptr, &clock_),
        metrics_({.model_name = "test",
                  .context_tokens = 256,
                  .capacity = {.sequences_max = 8, .pool_tokens = 256},
                  .tenants_max = tenants_max},
                 &clock_) {
    model_.kv_block_tokens = 4;
    parts_.model = &model_;
    parts_.engine = &engine_;
    parts_.admission = &admission_;
    parts_.clock = &clock_;
    parts_.calls = &calls_;
    parts_.counters = &counters_;
    parts_.metrics = &metrics_;
  }

  static EngineOptions Options(StepRecords* records) {
    EngineOptions options;
    options.context_tokens = 256;
    options.blocks = 64;
    options.block_tokens = 4;
    options.sequences_max = 8;
    options.step_tokens_max = 64;
    options.prefill_tokens_min = 8;
    options.logit_rows_max = 16;
    options.inbox_max = 64;
    options.records = records;
    options.period_ns = 5 * kStepNs;
    options.rate_card = {.id = "card", .micro_usd_per_hour = 3'600'000'000};  // a dollar a second
    return options;
  }

  std::shared_ptr<TokenStream> Submit(int32_t prompt_tokens, int32_t max_tokens,
                                      const std::string& tenant = "acme", int32_t choices = 1) {
    Request request;
    request.id = absl::StrCat("request-", submitted_++);
    request.tenant = tenant;
    request.prompt.assign(prompt_tokens, same_prompt_ ? 5 : 5 + submitted_);
    request.sampling.max_tokens = max_tokens;
    request.sampling.choices = choices;
    request.sampling.seed = 1;
    request.text_output = false;
    request.received_ns = clock_.NowNs();
    request.stream = std::make_shared<TokenStream>(choices, TokenStream::Limits{});
    const std::shared_ptr<TokenStream> stream = request.stream;
    EXPECT_TRUE(engine_.Submit(std::move(request)).ok());
    return stream;
  }

  // One step, and what the books' thread does after it.
  bool Step() {
    const bool worked = engine_.Step();
    while (StepRecord* record = records_.Front()) {
      metrics_.Observe(*record);
      for (const EndedRequest& ended : record->ended) rows_.push_back(ended.row);
      for (const Period& period : record->periods) periods_.push_back(period);
      records_.Release();
    }
    return worked;
  }
  void RunAll() {
    while (Step()) {
    }
  }

  std::map<std::string, double> Page() { return Samples(metrics_.Format(parts_)); }

  FakeClock clock_;
  StepRecords records_;
  TimedExecutor executor_;
  Engine engine_;
  AdmissionControl admission_{AdmissionLimits{}};
  CallRegistry calls_;
  ServiceCounters counters_;
  ServedModel model_;
  Metrics metrics_;
  ServiceParts parts_;
  std::vector<RequestRow> rows_;
  std::vector<Period> periods_;
  int submitted_ = 0;
  bool same_prompt_ = false;
};

}  // namespace tuppence
