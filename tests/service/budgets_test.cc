// A tenant's budget: what is held, posted and refused, and until when.
#include "service/budgets.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "scheduler/refusal.h"
#include "service/submit_request.h"
#include "tests/service/http_client.h"
#include "tests/service/service_harness.h"
#include "tests/support/fake_clock.h"

namespace tuppence {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kUsd = 1'000'000'000;
// 2026-11-25 00:00 UTC.
constexpr int64_t kToday = 20'782;
constexpr int64_t kNoonNs = kToday * kDayNs + 12 * kHourNs;

class BudgetsTest : public ::testing::Test {
 protected:
  BudgetsTest() {
    budgets_.SetBudgets({.tenants = {{"daily", Budget{5 * kUsd, BudgetSpan::kDay}},
                                     {"monthly", Budget{10 * kUsd, BudgetSpan::kMonth}},
                                     {"free", std::nullopt}},
                         .others = Budget{kUsd, BudgetSpan::kDay}});
  }

  absl::Status Hold(const std::string& id, const std::string& tenant, int64_t nanousd,
                    int64_t utc_ns = kNoonNs) {
    return budgets_.Hold({.request_id = id,
                          .tenant = tenant,
                          .nanousd = nanousd,
                          .held_ns = 1,
                          .held_utc_ns = utc_ns,
                          .rate_card = {}});
  }
  void Post(const std::string& id, const std::string& tenant, int64_t nanousd,
            int64_t received_utc_ns = kNoonNs, bool stored = true) {
    RequestRow row;
    row.id = id;
    row.tenant = tenant;
    row.received_utc_ns = received_utc_ns;
    row.cost.cost_nanousd = nanousd;
    budgets_.Post(row, stored);
  }
  BudgetState StateOf(const std::string& tenant, int64_t utc_ns = kNoonNs) {
    for (const BudgetState& state : budgets_.States(utc_ns, 100)) {
      if (state.tenant == tenant) return state;
    }
    ADD_FAILURE() << tenant;
    return {};
  }
  HoldChanges Changes() {
    HoldChanges changes;
    budgets_.TakeChanges(&changes);
    return changes;
  }

  Budgets budgets_;
};

TEST_F(BudgetsTest, HoldsOfRequestsInProgressCountTogether) {
  EXPECT_TRUE(Hold("a", "daily", 2 * kUsd).ok());
  EXPECT_TRUE(Hold("b", "daily", 3 * kUsd).ok());
  const absl::Status refused = Hold("c", "daily", 1);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  const Refusal refusal = *RefusalOf(refused);
  EXPECT_EQ(refusal.reason, reason::kBudgetHeld);
  EXPECT_EQ(refusal.tenant, "daily");
  EXPECT_EQ(refusal.retry_after_ms, 1000) << "what is held comes free long before the day ends";
  Post("a", "daily", kUsd);
  EXPECT_TRUE(Hold("c", "daily", kUsd).ok());
  EXPECT_EQ(StateOf("daily").spent_nanousd, kUsd);
  EXPECT_EQ(StateOf("daily").held_nanousd, 4 * kUsd);
  EXPECT_FALSE(StateOf("daily").exhausted);
}

TEST_F(BudgetsTest, WhatIsSpentIsGoneUntilTheDayEnds) {
  Post("a", "daily", 5 * kUsd - 1);
  EXPECT_TRUE(Hold("b", "daily", 1).ok());
  Post("b", "daily", 1);
  const absl::Status refused = Hold("c", "daily", 1);
  EXPECT_EQ(RefusalOf(refused)->reason, reason::kBudgetSpent);
  EXPECT_EQ(RefusalOf(refused)->retry_after_ms, 12 * 3600 * 1000);
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("5.00 USD a day, of which 5.00 are spent and 0.00 held"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("wait until 2026-11-26 00:00 UTC"));
  EXPECT_TRUE(StateOf("daily").exhausted);
  EXPECT_FALSE(Hold("c", "daily", 1, kNoonNs + 12 * kHourNs - 1).ok());
  EXPECT_TRUE(Hold("c", "daily", 5 * kUsd, kNoonNs + 12 * kHourNs).ok());
  EXPECT_FALSE(StateOf("daily", kNoonNs + 12 * kHourNs).exhausted);
}

TEST_F(BudgetsTest, AMonthIsTheCalendarsAndItsDaysAddUp) {
  constexpr int64_t kFirst = (kToday - 24) * kDayNs;  // 1 November
  Post("october", "monthly", 9 * kUsd, kFirst - 1);
  Post("first", "monthly", 6 * kUsd, kFirst);
  Post("today", "monthly", 3 * kUsd);
  EXPECT_EQ(StateOf("monthly").spent_nanousd, 9 * kUsd);
  const absl::Status refused = Hold("a", "monthly", kUsd + 1);
  EXPECT_EQ(RefusalOf(refused)->retry_after_ms, (5 * 24 + 12) * 3600 * 1000);
  EXPECT_TRUE(Hold("b", "monthly", kUsd).ok());
  EXPECT_TRUE(Hold("c", "monthly", 9 * kUsd, kNoonNs + 6 * kDayNs).ok()) << "1 December";
}

TEST_F(BudgetsTest, ARequestIsSpentInTheDayItCameInAndItsHoldCountsUntilItEnds) {
  const int64_t before_midnight = kNoonNs + 12 * kHourNs - 1;
  const int64_t after_midnight = before_midnight + 2;
  ASSERT_TRUE(Hold("late", "daily", 4 * kUsd, before_midnight).ok());
  EXPECT_FALSE(Hold("early", "daily", 2 * kUsd, after_midnight).ok());
  Post("late", "daily", 4 * kUsd, before_midnight);
  EXPECT_TRUE(Hold("early", "daily", 5 * kUsd, after_midnight).ok());
  EXPECT_EQ(StateOf("daily", before_midnight).spent_nanousd, 4 * kUsd);
  Post("early", "daily", kUsd, after_midnight);
  EXPECT_EQ(StateOf("daily", after_midnight).spent_nanousd, kUsd);
}

TEST_F(BudgetsTest, AClockThatJumpsBackFreesNothing) {
  Post("a", "daily", 5 * kUsd);
  EXPECT_FALSE(Hold("b", "daily", 1, kNoonNs - kDayNs).ok());
  EXPECT_EQ(StateOf("daily", kNoonNs - kDayNs).spent_nanousd, 5 * kUsd);
}

TEST_F(BudgetsTest, ARequestLargerThanTheWholeBudgetHearsThatWaitingIsNoUse) {
  const absl::Status refused = Hold("a", "daily", 5 * kUsd + 1);
  EXPECT_EQ(RefusalOf(refused)->reason, reason::kBudgetSpent);
  EXPECT_EQ(RefusalOf(refused)->retry_after_ms, -1);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("lower max_tokens"));
  EXPECT_FALSE(StateOf("daily").exhausted) << "smaller ones fit";
}

TEST_F(BudgetsTest, OnlyWhoHasABudgetIsHeldToOneAndTheUnnamedHaveOneEach) {
  EXPECT_TRUE(Hold("a", "free", 1000 * kUsd).ok());
  EXPECT_FALSE(budgets_.Has("free"));
  EXPECT_TRUE(Hold("b", "somebody", kUsd).ok());
  EXPECT_TRUE(Hold("c", "somebody else", kUsd).ok());
  EXPECT_FALSE(Hold("d", "somebody", 1).ok());
  std::vector<std::string> shown;
  for (const BudgetState& state : budgets_.States(kNoonNs, 100)) shown.push_back(state.tenant);
  EXPECT_THAT(shown, ElementsAre("daily", "monthly", "somebody", "somebody else"));
}

TEST_F(BudgetsTest, ThoseNearestToTheirLimitAreShownFirst) {
  Post("a", "daily", kUsd);         // a fifth
  Post("b", "monthly", 9 * kUsd);   // nine tenths
  Post("c", "somebody", kUsd / 2);  // half
  std::vector<std::string> shown;
  for (const BudgetState& state : budgets_.States(kNoonNs, 2)) shown.push_back(state.tenant);
  EXPECT_THAT(shown, ElementsAre("monthly", "somebody"));
}

TEST_F(BudgetsTest, ABudgetThatChangesCountsWhatWasSpentBefore) {
  Post("a", "free", 3 * kUsd);
  budgets_.SetBudgets({.tenants = {{"free", Budget{3 * kUsd, BudgetSpan::kMonth}}}, .others = {}});
  EXPECT_FALSE(Hold("b", "free", 1).ok());
  EXPECT_TRUE(Hold("c", "somebody", 100 * kUsd).ok());
}

TEST_F(BudgetsTest, TheStoreHearsOfHoldsAndOfThoseThatEndWithoutARow) {
  ASSERT_TRUE(Hold("row", "daily", 1).ok());
  ASSERT_TRUE(Hold("unrecorded", "daily", 2).ok());
  ASSERT_TRUE(Hold("voided at once", "daily", 3).ok());
  budgets_.Void("voided at once");
  HoldChanges changes = Changes();
  ASSERT_EQ(changes.made.size(), 2u);
  EXPECT_EQ(changes.made[0].request_id, "row");
  EXPECT_THAT(changes.gone, IsEmpty());
  Post("row", "daily", 1, kNoonNs, /*stored=*/true);
  Post("unrecorded", "daily", 1, kNoonNs, /*stored=*/false);
  EXPECT_THAT(Changes().gone, ElementsAre("unrecorded"));
  EXPECT_EQ(StateOf("daily").held_nanousd, 0);
}

TEST_F(BudgetsTest, WhatBeginsAndEndsWhileTheStoreIsDownNeverReachesIt) {
  ASSERT_TRUE(Hold("a", "daily", 1).ok());
  HoldChanges waiting = Changes();
  Post("a", "daily", 1, kNoonNs, /*stored=*/false);
  budgets_.TakeChanges(&waiting);
  EXPECT_TRUE(waiting.empty());
}

TEST(BudgetCallTest, ACallOverBudgetHearsWhoseQuotaItWasAndWhenToComeAgain) {
  HarnessOptions options;
  options.limits.tenant_header = "x-tenant";
  Budgets budgets;
  budgets.SetBudgets({.tenants = {{"shop", Budget{1'000'000, BudgetSpan::kDay}}}, .others = {}});
  options.budgets = &budgets;
  ServiceHarness service(options);
  budgets.SetSpent({{"shop", DayOf(service.clock.UtcNs()), 1'000'000}});
  CallOptions as_shop;
  as_shop.metadata = {{"x-tenant", "shop"}};
  const auto call = service.Generate(ServiceHarness::GoodRequest(), as_shop);
  const CallEnd& end = call->Wait();
  EXPECT_EQ(end.code, static_cast<int>(absl::StatusCode::kResourceExhausted)) << end.message;
  EXPECT_EQ(end.reason, "BUDGET_SPENT");
  EXPECT_EQ(end.quota_subject, "tenant:shop");
  EXPECT_GT(end.retry_ms, 0);
  EXPECT_LE(end.retry_ms, 24 * 3600 * 1000);
  const HttpAnswer over_http =
      Ask(service.http->port(), "POST", "/v1/chat/completions",
          R"({"messages": [{"role": "user", "content": "Where is my order?"}]})",
          {{"x-tenant", "shop"}});
  EXPECT_EQ(over_http.status, 429);
  EXPECT_EQ(over_http.error()["code"], "insufficient_quota");
  EXPECT_EQ(over_http.error()["type"], "rate_limit_error");
  EXPECT_EQ(over_http.headers.at("x-should-retry"), "false") << "not within a client's patience";
  EXPECT_NEAR(std::stod(over_http.headers.at("retry-after-ms")), *end.retry_ms, 60'000);
  EXPECT_EQ(budgets.States(service.clock.UtcNs(), 1)[0].held_nanousd, 0);
  EXPECT_EQ(service.Generate(ServiceHarness::GoodRequest())->Wait().code, kOk) << "nobody else's";
  const std::string page = FormatMetrics(service.parts);
  EXPECT_THAT(page, HasSubstr("tuppence_budget_exhausted{model_name=\"demo\",tenant=\"shop\","
                              "per=\"day\"} 1"));
  EXPECT_THAT(page, HasSubstr("tuppence_budget_limit_usd{model_name=\"demo\",tenant=\"shop\","
                              "per=\"day\"} 0.001"));
}

TEST(BudgetCallTest, ARequestIsHeldAtWhatItCostsAloneOrAtItsOwnLimit) {
  ServiceHarness service;
  Budgets budgets;
  budgets.SetBudgets({.tenants = {}, .others = Budget{kUsd, BudgetSpan::kDay}});
  ServiceParts parts = service.parts;
  parts.budgets = &budgets;
  const auto held = [&](const std::string& tenant, std::optional<int64_t> max_cost_nanousd) {
    Request request;
    request.id = tenant;
    request.tenant = tenant;
    request.prompt.assign(10, 5);
    request.sampling.max_tokens = 100;
    request.sampling.seed = 1;
    request.text_output = false;
    request.max_cost_nanousd = max_cost_nanousd;
    request.stream = std::make_shared<TokenStream>(1, TokenStream::Limits{});
    EXPECT_TRUE(SubmitRequest(parts, std::move(request)).ok());
    for (const BudgetState& state : budgets.States(service.clock.UtcNs(), 9)) {
      if (state.tenant == tenant) return state.held_nanousd;
    }
    return int64_t{-1};
  };
  EXPECT_GT(held("whole", std::nullopt), 1);
  EXPECT_EQ(held("limited", 1), 1);
  service.ExpectAtRest();
}

}  // namespace
}  // namespace tuppence
