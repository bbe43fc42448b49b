// Each family of ours that alerts and panels read, by its value: what happens in the engine, at the
// door and in the store is on the page under its own name.
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "service/budgets.h"
#include "service/version.h"
#include "tests/service/metrics_page.h"

namespace tuppence {
namespace {

using ::testing::HasSubstr;

using MetricValuesTest = MetricsPageTest;

TEST_F(MetricValuesTest, TimesOfSerialRequestsAreExact) {
  constexpr int kRequests = 4;
  constexpr int kPrompt = 12;
  constexpr int kTokens = 6;
  for (int i = 0; i < kRequests; ++i) {
    const auto stream = Submit(kPrompt, kTokens);
    clock_.Advance(2 * kStepNs);  // in the queue
    RunAll();
  }
  auto page = Page();
  const std::pair<const char*, double> kSums[] = {
      {"time_to_first_token_seconds", 3e-3},     {"queue_seconds", 2e-3},
      {"request_seconds", (2 + kTokens) * 1e-3}, {"time_per_output_token_seconds", 1e-3},
      {"request_prompt_tokens", kPrompt},        {"request_completion_tokens", kTokens},
  };
  for (const auto& [family, each] : kSums) {
    const std::string name = absl::StrCat("tuppence_", family);
    EXPECT_EQ(page.at(name + "_count"), kRequests) << name;
    EXPECT_NEAR(page.at(name + "_sum"), kRequests * each, 1e-9) << name;
  }
  EXPECT_EQ(page["tuppence_inter_token_seconds_count"], kRequests * (kTokens - 1));
  EXPECT_NEAR(page["tuppence_inter_token_seconds_sum"], kRequests * (kTokens - 1) * 1e-3, 1e-9);
  EXPECT_EQ(page["tuppence_tokens_total{phase=\"prefill\"}"], kRequests * kPrompt);
  EXPECT_EQ(page["tuppence_tokens_total{phase=\"decode\"}"], kRequests * (kTokens - 1));
  EXPECT_EQ(page["tuppence_completion_tokens_total"], kRequests * kTokens);
  EXPECT_EQ(page["tuppence_steps_total"], kRequests * kTokens);
  EXPECT_EQ(page["tuppence_step_tokens_count"], kRequests * kTokens);
  EXPECT_EQ(page["tuppence_step_tokens_sum"], kRequests * (kPrompt + kTokens - 1));
  EXPECT_EQ(page["tuppence_step_last_seconds"], 1e-3);
  EXPECT_EQ(page["tuppence_step_longest_seconds"], 1e-3);
}

TEST_F(MetricValuesTest, WhatTheModelOfCostsSaysIsTheEnginesOwn) {
  for (int i = 0; i < 8; ++i) Submit(12, 60);
  RunAll();
  auto page = Page();
  const EngineSnapshot engine = engine_.Snapshot();
  EXPECT_EQ(page.at("tuppence_step_model_error_ratio{percentile=\"50\"}"),
            engine.step_model_error_p50);
  EXPECT_EQ(page.at("tuppence_step_model_error_ratio{percentile=\"95\"}"),
            engine.step_model_error_p95);
  EXPECT_GT(page["tuppence_capacity_used_ratio"], 0);
  EXPECT_DOUBLE_EQ(page["tuppence_capacity_used_ratio"], metrics_.CapacityUsedRatio(engine));
}

TEST_F(MetricValuesTest, RowsThatAreNoNumbersAreCountedAndTheirTimeIsWrittenOff) {
  executor_.not_finite = true;
  Submit(12, 6);
  RunAll();
  executor_.not_finite = false;
  Submit(12, 6);
  RunAll();
  auto page = Page();
  EXPECT_EQ(page["tuppence_rows_not_finite_total"], 1);
  EXPECT_EQ(page["tuppence_requests_ended_total{outcome=\"error\"}"], 1);
  EXPECT_EQ(page["tuppence_requests_ended_total{outcome=\"length\"}"], 1);
  ASSERT_EQ(rows_.size(), 2u);
  EXPECT_TRUE(rows_[0].written_off);
  EXPECT_NEAR(page["tuppence_written_off_seconds_total"], 1e-9 * rows_[0].cost.machine_ns, 1e-12);
  EXPECT_EQ(page["tuppence_request_cost_usd_count"], 1) << "what is written off has no price";
  EXPECT_EQ(page["tuppence_engine_failed"], 0);
}

TEST_F(MetricValuesTest, AnEngineThatFailedSaysSo) {
  Submit(12, 6);
  executor_.failing = true;
  RunAll();
  auto page = Page();
  EXPECT_EQ(page["tuppence_engine_failed"], 1);
  EXPECT_EQ(page["tuppence_requests_running"], 0);
  clock_.Advance(3'000'000'000);
  EXPECT_GE(Page()["tuppence_engine_silent_seconds"], 3);
}

TEST_F(MetricValuesTest, ADrainShows) {
  EXPECT_EQ(Page()["tuppence_draining"], 0);
  engine_.BeginDrain(clock_.NowNs() + 100 * kStepNs);
  Step();
  EXPECT_EQ(Page()["tuppence_draining"], 1);
}

TEST_F(MetricValuesTest, BooksThatAreBehindShow) {
  Submit(12, 120);
  for (int i = 0; i < 100; ++i) engine_.Step();  // nobody takes the records down
  auto page = Page();
  EXPECT_EQ(page["tuppence_records_full"], 1);
  EXPECT_GE(page["tuppence_records_waiting"], 60);
  RunAll();
  page = Page();
  EXPECT_EQ(page["tuppence_records_full"], 0);
  EXPECT_EQ(page["tuppence_step_tokens_sum"], 12 + 119) << "no step is lost";
}

TEST_F(MetricValuesTest, TheStoresStateIsShownFieldByField) {
  parts_.store = [] {
    return StoreState{.path = "/x",
                      .commits = 3,
                      .commits_failed = 5,
                      .rows_stored = 7,
                      .rows_waiting = 11,
                      .unrecordable = true,
                      .unrecorded_requests = 13,
                      .bytes_free = 17};
  };
  metrics_.ObserveCommit(4'000'000, 1);
  metrics_.ObserveClosing(7'000'000);
  auto page = Page();
  EXPECT_EQ(page["tuppence_store_commits_total"], 3);
  EXPECT_EQ(page["tuppence_store_commits_failed_total"], 5);
  EXPECT_EQ(page["tuppence_store_rows_total"], 7);
  EXPECT_EQ(page["tuppence_store_rows_waiting"], 11);
  EXPECT_EQ(page["tuppence_store_unrecordable"], 1);
  EXPECT_EQ(page["tuppence_store_unrecorded_requests_total"], 13);
  EXPECT_EQ(page["tuppence_store_free_bytes"], 17);
  EXPECT_EQ(page["tuppence_store_commit_seconds_count"], 1);
  EXPECT_NEAR(page["tuppence_store_commit_seconds_sum"], 4e-3, 1e-12);
  EXPECT_EQ(page["tuppence_closing_delay_seconds_count"], 1);
  EXPECT_NEAR(page["tuppence_closing_delay_seconds_sum"], 7e-3, 1e-12);
  // Free space that is not known is not shown as none, which would be an alert.
  parts_.store = [] { return StoreState{.path = "/x"}; };
  EXPECT_EQ(Page().count("tuppence_store_free_bytes"), 0u);
}

TEST_F(MetricValuesTest, TheModelAndWhatRunsItAreNamed) {
  model_.backend = "cpu";
  model_.kernels = "avx512: it is there";
  model_.arithmetic_id = "a1";
  model_.weight_type = "int8";
  model_.kv_type = "bf16";
  model_.weight_bytes = 1000;
  model_.kv_bytes = 200;
  auto page = Page();
  EXPECT_EQ(page[absl::StrCat("tuppence_build_info{version=\"", kVersion,
                              "\",backend=\"cpu\",kernels=\"avx512\",arithmetic_id=\"a1\","
                              "weight_type=\"int8\",kv_type=\"bf16\"}")],
            1);
  EXPECT_EQ(page["tuppence_model_memory_bytes{part=\"weights\"}"], 1000);
  EXPECT_EQ(page["tuppence_model_memory_bytes{part=\"kv_cache\"}"], 200);
}

TEST_F(MetricValuesTest, BudgetsOfAsManyTenantsAreShownAsTheHelpSays) {
  constexpr int64_t kNanoUsd = 1'000'000'000;
  Budgets budgets;
  TenantBudgets tenants;
  for (int i = 0; i < 70; ++i) {
    tenants.tenants[absl::StrCat("tenant-", i)] = Budget{.nanousd = 100 * kNanoUsd};
  }
  budgets.SetBudgets(std::move(tenants));
  const int64_t today = DayOf(clock_.UtcNs());
  budgets.SetSpent({{.tenant = "tenant-69", .day = today, .nanousd = 40 * kNanoUsd}});
  EXPECT_TRUE(budgets
                  .Hold({.request_id = "r",
                         .tenant = "tenant-69",
                         .nanousd = 2 * kNanoUsd,
                         .held_utc_ns = clock_.UtcNs()})
                  .ok());
  parts_.budgets = &budgets;
  auto page = Page();
  size_t shown = 0;
  for (const auto& [name, value] : page) {
    shown += absl::StartsWith(name, "tuppence_budget_limit_usd{");
  }
  EXPECT_EQ(shown, MetricsOptions().tenants_max);
  EXPECT_THAT(metrics_.Format(parts_),
              HasSubstr(absl::StrCat(" of the ", MetricsOptions().tenants_max, " who ")));
  const std::string labels = "{tenant=\"tenant-69\",per=\"day\"}";
  EXPECT_EQ(page.at("tuppence_budget_limit_usd" + labels), 100);
  EXPECT_EQ(page.at("tuppence_budget_spent_usd" + labels), 40);
  EXPECT_EQ(page.at("tuppence_budget_held_usd" + labels), 2);
  EXPECT_EQ(page.at("tuppence_budget_exhausted" + labels), 0);
}

}  // namespace
}  // namespace tuppence
