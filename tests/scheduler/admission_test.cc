#include "scheduler/admission.h"

#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "scheduler/inbox.h"
#include "scheduler/refusal.h"
#include "scheduler/token_stream.h"

namespace tuppence {
namespace {

AdmissionLimits SmallLimits() {
  return {.requests_max = 3,
          .prompt_tokens_max = 100,
          .tenant_requests_max = 2,
          .tenant_prompt_tokens_max = 60,
          .retry_after_ms = 250};
}

TEST(AdmissionTest, AFullServerRefusesAsUnavailableWithARetryTime) {
  AdmissionControl admission(SmallLimits());
  const auto a = admission.Reserve("a", 10);
  const auto b = admission.Reserve("b", 10);
  const auto c = admission.Reserve("c", 10);
  ASSERT_TRUE(a.ok() && b.ok() && c.ok());
  const absl::Status refused = admission.Reserve("d", 10).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  const std::optional<Refusal> refusal = RefusalOf(refused);
  ASSERT_TRUE(refusal.has_value());
  EXPECT_EQ(refusal->reason, reason::kQueueFull);
  EXPECT_EQ(refusal->retry_after_ms, 250);
  EXPECT_EQ(refusal->tenant, "");
  EXPECT_EQ(admission.snapshot().refused_global, 1);
}

TEST(AdmissionTest, WhereNoSlotIsFreeNobodyNeedsToKnowWhatIsAsked) {
  AdmissionControl admission(SmallLimits());
  const auto a = admission.Reserve("a", 10);
  const auto b = admission.Reserve("a", 10);
  EXPECT_TRUE(admission.RefuseWhenFull("a").ok()) << "its own share is Reserve's to judge";
  auto c = admission.Reserve("c", 10);
  ASSERT_TRUE(a.ok() && b.ok() && c.ok());
  EXPECT_EQ(RefusalOf(admission.RefuseWhenFull("a"))->reason, reason::kTenantQueueFull);
  EXPECT_EQ(admission.RefuseWhenFull("d"), admission.Reserve("d", 0).status());
  EXPECT_EQ(admission.snapshot().refused_global, 2);
  EXPECT_EQ(admission.snapshot().refused_tenant, 1);
  c->reset();
  EXPECT_TRUE(admission.RefuseWhenFull("d").ok());
}

TEST(AdmissionTest, AFullTenantRefusesAsExhaustedAndNamesTheTenant) {
  AdmissionControl admission(SmallLimits());
  const auto first = admission.Reserve("a", 10);
  const auto second = admission.Reserve("a", 10);
  const absl::Status refused = admission.Reserve("a", 10).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(RefusalOf(refused)->reason, reason::kTenantQueueFull);
  EXPECT_EQ(RefusalOf(refused)->tenant, "a");
  EXPECT_TRUE(admission.Reserve("b", 10).ok()) << "others are not affected";
  EXPECT_EQ(admission.snapshot().refused_tenant, 1);
}

TEST(AdmissionTest, ATenantMayHaveLimitsOfItsOwn) {
  AdmissionControl admission(SmallLimits());
  admission.SetTenantLimits({{"small", {1, 10}}, {"shut", {0, 0}}}, {2, 60});
  EXPECT_EQ(RefusalOf(admission.Reserve("small", 11).status())->reason, reason::kTenantQueueFull);
  const auto only = admission.Reserve("small", 10);
  ASSERT_TRUE(only.ok());
  const absl::Status refused = admission.Reserve("small", 0).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(RefusalOf(refused)->retry_after_ms, 250);
  EXPECT_FALSE(admission.Reserve("shut", 0).ok());
  EXPECT_TRUE(admission.Reserve("other", 60).ok());
  admission.SetTenantLimits({}, {3, 60});
  EXPECT_TRUE(admission.Reserve("small", 0).ok()) << "what it holds counts on";
}

TEST(AdmissionTest, PromptTokensAreCappedToo) {
  AdmissionControl admission(SmallLimits());
  EXPECT_EQ(admission.Reserve("a", 61).status().code(), absl::StatusCode::kResourceExhausted);
  const auto a = admission.Reserve("a", 60);
  const auto b = admission.Reserve("b", 40);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(admission.Reserve("c", 1).status().code(), absl::StatusCode::kUnavailable);
}

TEST(AdmissionTest, ShrinkingGivesTheExcessBackAndTheEndGivesAll) {
  AdmissionControl admission(SmallLimits());
  {
    auto hold = admission.Reserve("a", 60);
    ASSERT_TRUE(hold.ok());
    (*hold)->Shrink(15);
    EXPECT_EQ(admission.snapshot().prompt_tokens, 15);
    EXPECT_TRUE(admission.Reserve("a", 45).ok());
  }
  const AdmissionSnapshot snapshot = admission.snapshot();
  EXPECT_EQ(snapshot.requests, 0);
  EXPECT_EQ(snapshot.prompt_tokens, 0);
  EXPECT_EQ(snapshot.tenants, 0) << "made-up names do not gather";
}

TEST(AdmissionTest, AHoldMayOutliveTheControl) {
  std::shared_ptr<AdmissionHold> hold;
  {
    AdmissionControl admission(SmallLimits());
    hold = *admission.Reserve("a", 5);
  }
  hold.reset();
}

TEST(AdmissionTest, ManyThreadsNeverPassTheCap) {
  AdmissionLimits limits = SmallLimits();
  limits.prompt_tokens_max = 1'000'000;
  AdmissionControl admission(limits);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&admission, t] {
      const std::string tenant = absl::StrCat("t", t);
      for (int i = 0; i < 2000; ++i) {
        const auto hold = admission.Reserve(tenant, 10);
        EXPECT_LE(admission.snapshot().requests, 3);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(admission.snapshot().requests, 0);
}

TEST(RefusalTest, SurvivesTheStatusItTravelsIn) {
  Refusal refusal;
  refusal.reason = reason::kQueueFull;
  refusal.retry_after_ms = 17;
  refusal.tenant = "12:a\n:b";
  refusal.metadata = {{"key", "value:3:x"}, {"", ""}};
  const absl::Status status =
      RefusalStatus(absl::StatusCode::kUnavailable, "the queue is full", refusal);
  EXPECT_EQ(status.message(), "the queue is full");
  const std::optional<Refusal> read = RefusalOf(status);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->reason, refusal.reason);
  EXPECT_EQ(read->retry_after_ms, 17);
  EXPECT_EQ(read->tenant, refusal.tenant);
  EXPECT_EQ(read->metadata, refusal.metadata);
  EXPECT_FALSE(RefusalOf(absl::InternalError("no refusal")).has_value());
}

TEST(InboxTest, AFullInboxRefusesAndAClosedOneSaysWhy) {
  Inbox inbox(2, 250);
  EXPECT_TRUE(inbox.Submit({}).ok());
  EXPECT_TRUE(inbox.Submit({}).ok());
  const absl::Status full = inbox.Submit({});
  EXPECT_EQ(full.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(RefusalOf(full)->reason, reason::kQueueFull);
  std::vector<Request> requests;
  inbox.Take(&requests);
  EXPECT_EQ(requests.size(), 2u);
  EXPECT_TRUE(inbox.Submit({}).ok());
  inbox.Close(absl::UnavailableError("closing"));
  EXPECT_EQ(inbox.Submit({}).message(), "closing");
  requests.clear();
  inbox.Take(&requests);
  EXPECT_EQ(requests.size(), 1u) << "what was inside stays";
}

TEST(InboxTest, AWakeUpBeforeTheWaitIsNotLost) {
  Inbox inbox(1, 250);
  inbox.WakeForCancel();
  inbox.Wait(3'600'000'000'000);  // an hour, if it were lost
  EXPECT_TRUE(inbox.TakeCancelled());
  EXPECT_FALSE(inbox.TakeCancelled());
}

}  // namespace
}  // namespace tuppence
