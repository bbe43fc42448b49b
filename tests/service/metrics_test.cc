// What /metrics says under our own names, against an engine driven step by step; and that no step
// waits for it.
#include "service/metrics.h"

#include <atomic>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "service/budgets.h"
#include "tests/service/metrics_page.h"

namespace tuppence {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST_F(MetricsPageTest, WhatThePrefixCacheSavedIsCounted) {
  same_prompt_ = true;
  for (int i = 0; i < 3; ++i) {
    Submit(13, 2);
    RunAll();
  }
  auto page = Page();
  EXPECT_EQ(page["tuppence_prefix_cache_prompt_tokens_total"], 39);
  EXPECT_EQ(page["tuppence_prefix_cache_hit_tokens_total"], 24) << "three blocks of four, twice";
  EXPECT_EQ(page["tuppence_kv_blocks_cached"], 3);
  EXPECT_EQ(page["tuppence_kv_blocks_used"], 0);
  EXPECT_EQ(page["vllm:prefix_cache_queries_total"], 39);
  EXPECT_EQ(page["vllm:prefix_cache_hits_total"], 24);
  EXPECT_EQ(page["vllm:prompt_tokens_cached_total"], 24);
  EXPECT_EQ(page["vllm:request_prefill_kv_computed_tokens_sum"], 15);
  EXPECT_EQ(page["vllm:prompt_tokens_by_source_total{source=\"local_cache_hit\"}"], 24);
  EXPECT_EQ(page["vllm:prompt_tokens_by_source_total{source=\"local_compute\"}"], 15);
}

// Every row of the table but the store's, which there is none of here.
TEST_F(MetricsPageTest, EveryFamilyOfTheTableIsOnThePage) {
  Submit(12, 4);
  RunAll();
  parts_.store = [] { return StoreState{.path = "/x", .commits = 3, .bytes_free = 5}; };
  Budgets budgets;
  budgets.SetBudgets({.tenants = {{"shop", Budget{.nanousd = 1}}}, .others = {}});
  parts_.budgets = &budgets;
  const std::string page = metrics_.Format(parts_);
  std::set<std::string> names;
  for (const MetricSpec& spec : MakeMetricTable(256)) {
    EXPECT_THAT(page, HasSubstr(absl::StrCat("# TYPE ", spec.name, " "))) << spec.name;
    EXPECT_TRUE(names.insert(spec.name).second) << spec.name << " twice";
  }
  parts_.store = nullptr;
  parts_.budgets = nullptr;
  EXPECT_THAT(metrics_.Format(parts_), Not(HasSubstr("tuppence_store_")));
  EXPECT_THAT(metrics_.Format(parts_), Not(HasSubstr("tuppence_budget_")));
}

// bench/scrape_bench measures the rest: what a scrape's work takes from a step's cores.
TEST_F(MetricsPageTest, StepsAndBooksGoOnWhileAScrapeStandsStill) {
  absl::Notification in_scrape, go_on;
  bool in_time = false;
  parts_.store = [&] {
    in_scrape.Notify();
    in_time = go_on.WaitForNotificationWithTimeout(absl::Seconds(60));
    return StoreState{.path = "/x"};
  };
  std::thread scraper([this] { metrics_.Format(parts_); });
  in_scrape.WaitForNotification();
  Submit(12, 40);
  RunAll();
  go_on.Notify();
  scraper.join();
  EXPECT_TRUE(in_time) << "a step or its record waited for the scrape";
  EXPECT_EQ(rows_.size(), 1u);
  EXPECT_EQ(engine_.Snapshot().steps, 40);
}

// The clock of the one that scrapes, which stands still at a reading of its own.
class StandingClock final : public Clock {
 public:
  explicit StandingClock(const Clock* clock) : clock_(clock) {}
  int64_t NowNs() const override {
    Read();
    return clock_->NowNs();
  }
  int64_t UtcNs() const override {
    Read();
    return clock_->UtcNs();
  }

  void StandAt(int reading) { left_ = reading; }
  bool Stands() { return stands_.WaitForNotificationWithTimeout(absl::Seconds(60)); }
  // True when it stood until now.
  bool GoOn() {
    go_on_.Notify();
    return in_time_;
  }

 private:
  void Read() const {
    if (left_-- != 0) return;
    stands_.Notify();
    in_time_ = go_on_.WaitForNotificationWithTimeout(absl::Seconds(60));
  }

  const Clock* const clock_;
  mutable std::atomic<int> left_ = -1;
  mutable std::atomic<bool> in_time_ = true;
  mutable absl::Notification stands_, go_on_;
};

// Wherever a scrape reads the time, which is also under the lock that it shares with the books.
TEST_F(MetricsPageTest, NoStepWaitsForAScrapeThatHoldsALock) {
  Budgets budgets;
  parts_.budgets = &budgets;
  constexpr int kReadings = 3;  // the process's, under the books' lock, the budgets'
  for (int reading = 0; reading < kReadings; ++reading) {
    StandingClock clock(&clock_);
    Metrics metrics({.model_name = "test", .context_tokens = 256}, &clock);
    parts_.clock = &clock;
    clock.StandAt(reading);
    std::thread scraper([&] { metrics.Format(parts_); });
    EXPECT_TRUE(clock.Stands());
    Submit(12, 20);
    engine_.SetRateCard({.id = absl::StrCat("card", reading), .micro_usd_per_hour = 1});
    for (int i = 0; i < 20; ++i) EXPECT_TRUE(engine_.Step());
    EXPECT_TRUE(clock.GoOn()) << "a step waited for the scrape";
    scraper.join();
    EXPECT_EQ(engine_.Snapshot().steps, 20 * (reading + 1));
    EXPECT_EQ(engine_.ledger().rate_card().id, absl::StrCat("card", reading));
    RunAll();
  }
}

TEST_F(MetricsPageTest, ANewRateCardIsTakenThoughScrapesReadTheOldOneAllTheTime) {
  std::atomic<bool> done = false;
  std::thread scraper([&] {
    while (!done.load()) engine_.rate_card();
  });
  for (int i = 0; i < 200; ++i) {
    const std::string id = absl::StrCat("card", i);
    engine_.SetRateCard({.id = id, .micro_usd_per_hour = 1 + i});
    // A step that finds the lock taken leaves the card to the next.
    const auto taken = [&] { return engine_.ledger().rate_card().id == id; };
    for (int steps = 0; !taken() && steps < 100'000; ++steps) Step();
    ASSERT_TRUE(taken()) << id;
  }
  done.store(true);
  scraper.join();
}

TEST_F(MetricsPageTest, MoneyAndTimeAgreeWithTheRowsAndTheLedger) {
  Submit(40, 9, "acme");
  Submit(10, 30, "globex");
  RunAll();
  clock_.Advance(7 * kStepNs);
  Step();  // idle
  auto page = Page();
  double usd = 0;
  double seconds = 0;
  for (const RequestRow& row : rows_) {
    usd += row.cost.cost_nanousd * 1e-9;
    seconds += row.cost.machine_ns * 1e-9;
  }
  const auto sum = [&](const std::string& family) {
    double total = 0;
    for (const auto& [name, value] : page) {
      if (absl::StartsWith(name, family + "{")) total += value;
    }
    return total;
  };
  EXPECT_NEAR(sum("tuppence_request_cost_usd_total"), usd, 1e-9);
  EXPECT_NEAR(sum("tuppence_tenant_cost_usd_total"), usd, 1e-9);
  EXPECT_NEAR(page["tuppence_request_cost_usd_sum"], usd, 1e-9);
  EXPECT_NEAR(sum("tuppence_request_machine_seconds_total"), seconds, 1e-9);
  EXPECT_NEAR(page["tuppence_machine_seconds_total{account=\"request\"}"], seconds, 1e-9);
  // A dollar a second, whatever the period it fell into.
  EXPECT_FALSE(periods_.empty());
  for (const char* account : {"startup", "idle", "request", "overhead", "drain", "unrecorded"}) {
    const std::string label = absl::StrCat("{account=\"", account, "\"}");
    EXPECT_NEAR(page["tuppence_cost_usd_total" + label],
                page["tuppence_machine_seconds_total" + label], 1e-9)
        << account;
  }
  EXPECT_NEAR(sum("tuppence_machine_seconds_total"), engine_.Snapshot().elapsed_ns * 1e-9, 1e-9);
  EXPECT_EQ(page["tuppence_conservation_error_seconds"], 0);
  // The device's energy is that of the steps, divided as their time is.
  double joules = 0;
  for (const RequestRow& row : rows_) joules += row.usage.energy_joules;
  EXPECT_NEAR(page["tuppence_step_energy_joules_total"],
              kWatts * engine_.Snapshot().step_ns_sum * 1e-9, 1e-9);
  EXPECT_NEAR(joules, kWatts * seconds, 1e-9);
  EXPECT_EQ(page["tuppence_tenant_tokens_total{tenant=\"globex\",kind=\"completion\"}"], 30);
  EXPECT_EQ(page["tuppence_request_tokens_total{kind=\"prompt\"}"], 50);
  EXPECT_EQ(page["tuppence_rate_usd_per_hour{rate_card_id=\"card\"}"], 3600);
  EXPECT_EQ(page["tuppence_rate_card_missing"], 0);
}

TEST_F(MetricsPageTest, APeriodThatDoesNotAddUpShowsForEver) {
  StepRecord record;
  Period& period = record.periods.emplace_back();
  period.start_ns = 1000;
  period.end_ns = 2000;
  period.accounts.idle_ns = 997;
  metrics_.Observe(record);
  record.Clear();
  EXPECT_NEAR(Page()["tuppence_conservation_error_seconds"], 3e-9, 1e-15);
  // A gap to the next, whose tenants lack a nanosecond of its request time.
  Period& next = record.periods.emplace_back();
  next.start_ns = 2010;
  next.end_ns = 3010;
  next.accounts.request_ns = 1000;
  next.tenants.push_back({.tenant = "acme", .request_ns = 999});
  metrics_.Observe(record);
  EXPECT_NEAR(Page()["tuppence_conservation_error_seconds"], 14e-9, 1e-15);
}

TEST_F(MetricsPageTest, WithoutARateThereIsNoMoneyRatherThanNone) {
  engine_.SetRateCard(RateCard());
  StepRecords records(64, 8);
  Engine engine(
      [&] {
        EngineOptions options = Options(&records);
        options.rate_card = {};
        return options;
      }(),
      &executor_, nullptr, &clock_);
  parts_.engine = &engine;
  const std::string page = metrics_.Format(parts_);
  EXPECT_THAT(page, HasSubstr("tuppence_rate_card_missing{model_name=\"test\"} 1"));
  EXPECT_THAT(page, Not(HasSubstr("usd")));
}

TEST_F(MetricsPageTest, StepsOfOneRecordKeepTheirSums) {
  // As when the ring was full: two prefill steps and a decode step in one record.
  StepRecord record;
  record.steps.push_back(
      {.step_ns = kStepNs, .modelled_ns = kStepNs, .prefill_tokens = 8, .sequences = 1});
  record.steps.push_back({.step_ns = kStepNs,
                          .modelled_ns = kStepNs,
                          .prefill_tokens = 4,
                          .decode_tokens = 2,
                          .sequences = 3});
  record.steps.push_back(
      {.step_ns = kStepNs, .modelled_ns = 2 * kStepNs, .decode_tokens = 3, .sequences = 3});
  record.time_to_first_token_ns = {5, 6};
  record.inter_token_ns = {1, 1, 1, 1, 1};
  metrics_.Observe(record);
  auto page = Page();
  EXPECT_EQ(page["vllm:iteration_tokens_total_sum"], 12 + 7);
  EXPECT_EQ(page["vllm:iteration_tokens_total_count"], 3);
  EXPECT_EQ(page["tuppence_step_seconds_count{phase=\"prefill\"}"], 1);
  EXPECT_EQ(page["tuppence_step_seconds_count{phase=\"mixed\"}"], 1);
  EXPECT_EQ(page["tuppence_step_seconds_count{phase=\"decode\"}"], 1);
  EXPECT_EQ(page["tuppence_step_model_relative_error_bucket{le=\"0.5\"}"], 2);
  EXPECT_EQ(page["tuppence_step_sequences_sum"], 7);
}

TEST_F(MetricsPageTest, RefusalsAreCountedByReason) {
  Refusal refusal;
  refusal.reason = reason::kQueueFull;
  counters_.CountRefused(RefusalStatus(absl::StatusCode::kUnavailable, "full", refusal));
  counters_.CountRefused(absl::InternalError("unforeseen"));
  counters_.CountRefused(absl::OkStatus());
  auto page = Page();
  EXPECT_EQ(page["tuppence_refusals_total{reason=\"QUEUE_FULL\"}"], 1);
  EXPECT_EQ(page["tuppence_refusals_total{reason=\"OTHER\"}"], 1);
  EXPECT_EQ(page["tuppence_refusals_total{reason=\"DRAINING\"}"], 0);
}

class FewTenantsTest : public MetricsPageTest {
 protected:
  FewTenantsTest() : MetricsPageTest(/*tenants_max=*/2) {}
};

TEST_F(FewTenantsTest, LabelsStayFewAndTheirSumIsExact) {
  double machine_seconds = 0;
  std::map<std::string, double> before;
  for (int i = 0; i < 40; ++i) {
    // Ten names; "big" comes late and spends most.
    const std::string tenant = i >= 10 && i % 2 == 0 ? "big" : absl::StrCat("tenant-", i % 10);
    Submit(8, tenant == "big" ? 40 : 4, tenant);
    RunAll();
    auto page = Page();
    std::set<std::string> labels;
    double sum = 0;
    for (const auto& [name, value] : page) {
      if (!absl::StartsWith(name, "tuppence_tenant_machine_seconds_total{")) continue;
      labels.insert(std::vector<std::string>(absl::StrSplit(name, '"'))[1]);
      sum += value;
      if (before.count(name) > 0) {
        EXPECT_GE(value, before[name]) << name << " fell at request " << i;
      }
    }
    EXPECT_LE(labels.size(), 3u);
    EXPECT_EQ(labels.count("other"), 1u);
    machine_seconds = 0;
    for (const RequestRow& row : rows_) machine_seconds += row.cost.machine_ns * 1e-9;
    EXPECT_NEAR(sum, machine_seconds, 1e-9);
    before = page;
  }
  EXPECT_THAT(metrics_.Format(parts_), HasSubstr("tenant=\"big\""));
}

TEST(CapacityTest, OneSlowStreamKeepsAMachineBusyAtAFewPercent) {
  // Reading the weights is nearly all: 32 sequences take hardly longer than one.
  const StepCostCoefficients coefficients = {
      .launch_ns = 0, .weights_ns = 10e6, .token_ns = 1000, .attention_ns = 0, .kv_read_ns = 1};
  const CapacityLimits limits = {
      .sequences_max = 64, .pool_tokens = 32 * 200, .inter_token_target_seconds = 0.05};
  CapacityMeter meter(0);
  int64_t now_ns = 0;
  while (now_ns < 60'000'000'000) {
    now_ns += 10'000'000;  // a step of one token, all the time
    meter.AddStep(now_ns, 0, 1);
  }
  meter.AddRequest(now_ns, 100, 100);
  EXPECT_NEAR(meter.UsedRatio(now_ns, coefficients, limits, 0), 1.0 / 32, 0.003);
  // A minute later nothing is left of it.
  EXPECT_EQ(meter.UsedRatio(now_ns + 61'000'000'000, coefficients, limits, 0), 0);
}

TEST(CapacityTest, TheInterTokenTargetBoundsIt) {
  const StepCostCoefficients coefficients = {
      .launch_ns = 0, .weights_ns = 1e6, .token_ns = 1e6, .attention_ns = 0, .kv_read_ns = 0};
  const WorkMix mix = {.decode_tokens = 100, .prompt_tokens = 10, .completion_tokens = 10};
  // A millisecond a token: ten sequences fit in ten milliseconds, though the pool has room for
  // more.
  const CapacityLimits limits = {
      .sequences_max = 64, .pool_tokens = 10000, .inter_token_target_seconds = 0.01};
  EXPECT_NEAR(CapacityTokensPerSecond(coefficients, limits, mix), 1000, 1);
  // With nine prompt tokens to each, only one fits; the rate is the same, for it is all arithmetic.
  const WorkMix prompts = {
      .prefill_tokens = 900, .decode_tokens = 100, .prompt_tokens = 90, .completion_tokens = 10};
  EXPECT_NEAR(CapacityTokensPerSecond(coefficients, limits, prompts), 1000, 1);
}

}  // namespace
}  // namespace tuppence
