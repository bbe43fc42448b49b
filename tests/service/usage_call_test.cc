// GetUsage and its words: whoever did not see their last message can ask what was booked.
#include <gmock/gmock.h>

#include "service/explain.h"
#include "service/usage_store.h"
#include "tests/service/made_store.h"
#include "tests/service/service_harness.h"
#include "tests/service/usage_files.h"
#include "tests/support/fake_clock.h"

namespace tuppence {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

HarnessOptions WithStore(const std::string& path) {
  HarnessOptions options;
  options.usage_store = path;
  options.limits.tenant_header = "x-tenant";
  return options;
}

CallOptions As(const std::string& tenant) { return {.metadata = {{"x-tenant", tenant}}}; }

v1::GetUsageRequest AskFor(const std::string& id) {
  v1::GetUsageRequest request;
  request.set_request_id(id);
  return request;
}

// Rows 1 to 4, of tenants 1, 2, 0, 1; the fourth has the first one's x-request-id.
std::string FourRows() {
  const std::string path = EmptyFolder() + "/usage.db";
  FakeClock clock(5'000'000);
  auto store = UsageStore::Open({.path = path},
                                {.instance = "m",
                                 .version = "1",
                                 .rate_card = {.machine_share_ppm = 250'000},
                                 .started_ns = clock.NowNs(),
                                 .started_utc_ns = clock.UtcNs()},
                                &clock)
                   .value();
  EXPECT_TRUE(store->NameModel("demo", "arithmetic").ok());
  std::vector<EndedRequest> ended;
  for (int64_t number = 1; number <= 4; ++number) ended.push_back(MakeEnded(number));
  ended[3].row.caller_id = "caller-1";
  ended[3].row.reason = FinishReason::kDeadline;
  ended[3].row.code = absl::StatusCode::kDeadlineExceeded;
  const std::vector<Period> periods = {MakePeriod(0)};
  EXPECT_TRUE(store->Write(ended, periods).ok());
  return path;
}

TEST(UsageCallTest, ATenantFindsItsRowsByEitherName) {
  ServiceHarness service(WithStore(FourRows()));
  v1::GetUsageResponse usage;
  ASSERT_EQ(service.Call("GetUsage", AskFor("request-1"), &usage, As("tenant-1")).code, kOk);
  EXPECT_FALSE(usage.open());
  EXPECT_EQ(usage.request_id(), "request-1");
  EXPECT_EQ(usage.caller_request_id(), "caller-1");
  EXPECT_EQ(usage.outcome(), "length");
  EXPECT_EQ(usage.code(), kOk);
  EXPECT_EQ(usage.received_unix_ns(), 4'000'000'000'000'000'001);
  EXPECT_EQ(usage.ended_unix_ns(), 4'000'000'000'000'000'501);
  EXPECT_EQ(usage.usage().prompt_tokens(), 11);
  EXPECT_EQ(usage.usage().completion_tokens(), 21);
  EXPECT_EQ(usage.cost().machine_ns(), 1001);
  EXPECT_EQ(usage.cost().shared_ns() + usage.cost().own_ns(), 1001);
  EXPECT_EQ(usage.cost().cost_nanousd(), 8);
  EXPECT_EQ(usage.cost().rate_card_id(), "card");

  ASSERT_EQ(service.Call("GetUsage", AskFor("caller-1"), &usage, As("tenant-1")).code, kOk);
  EXPECT_EQ(usage.request_id(), "request-4") << "the latest of that name";
  EXPECT_EQ(usage.outcome(), "deadline");
  EXPECT_EQ(usage.code(), kDeadlineExceeded);
  EXPECT_THAT(usage.explanation(), HasSubstr("deadline passed"));
}

TEST(UsageCallTest, NobodySeesAnothersRequest) {
  ServiceHarness service(WithStore(FourRows()));
  v1::GetUsageResponse usage;
  for (const char* id : {"request-1", "caller-1", "no-such", "tenant-1"}) {
    const CallEnd end = service.Call("GetUsage", AskFor(id), &usage, As("tenant-2"));
    EXPECT_EQ(end.code, kNotFound);
    EXPECT_EQ(end.reason, "REQUEST_NOT_FOUND");
    EXPECT_THAT(end.message, AllOf(HasSubstr("while nothing could be recorded"),
                                   HasSubstr("--keep-requests-days")));
  }
  const CallEnd nameless = service.Call("GetUsage", AskFor(""), &usage, As("tenant-1"));
  EXPECT_EQ(nameless.code, kInvalidArgument);
  EXPECT_EQ(nameless.violations.at(0).field, "request_id");
}

TEST(UsageCallTest, AnOpenRequestSaysSoAndAnEndedOneNeedsAStore) {
  ServiceHarness service;
  service.executor.step_us = 20'000;
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  request.mutable_sampling()->set_max_tokens(500);
  const auto call = service.Start(request, {.metadata = {{"x-request-id", "mine"}}});
  ASSERT_TRUE(call->WaitForMessages(2));
  v1::GetUsageResponse usage;
  ASSERT_EQ(service.Call("GetUsage", AskFor("mine"), &usage).code, kOk);
  EXPECT_TRUE(usage.open());
  EXPECT_FALSE(usage.has_cost());
  EXPECT_GT(usage.usage().prompt_tokens(), 0);
  EXPECT_GT(usage.usage().completion_tokens(), 0);
  EXPECT_THAT(usage.explanation(), HasSubstr("of at most 500"));
  ASSERT_EQ(service.Call("GetUsage", AskFor(usage.request_id()), &usage).code, kOk);
  call->Cancel();
  call->Wait();
  service.ExpectAtRest();
  const CallEnd end = service.Call("GetUsage", AskFor("mine"), &usage);
  EXPECT_EQ(end.code, kFailedPrecondition);
  EXPECT_EQ(end.reason, "NO_USAGE_STORE");
  EXPECT_THAT(end.message, HasSubstr("--usage-store"));
}

FoundRequest Found() {
  FoundRequest found;
  StoredRequest& row = found.request;
  row.request_id = "r";
  row.tenant = "acme";
  row.model = "phi";
  row.outcome = "ok";
  row.prompt_tokens = 300;
  row.completion_tokens = 60;
  row.steps = 61;
  row.mean_requests_per_step = 2.5;
  row.machine_ns = 3'600'000'000;
  row.shared_ns = 1'600'000'000;
  row.own_ns = 2'000'000'000;
  row.prefill_ns = 600'000'000;
  row.decode_ns = 3'000'000'000;
  found.card = {.id = "t4", .micro_usd_per_hour = 500'000};
  row.cost_nanousd = 500'000;
  row.rate_card_id = "t4";
  return found;
}

TEST(ExplainTest, PartsAndPriceAreThere) {
  EXPECT_THAT(
      Explain(Found()),
      AllOf(HasSubstr("Request r of tenant acme, model phi"), HasSubstr("read 300 prompt tokens"),
            HasSubstr("Booked: 3.600000000 s"), HasSubstr("= 1.600000000 s its part"),
            HasSubstr("+ 2.000000000 s its own"), HasSubstr("2.50 requests"),
            HasSubstr("Cost: 0.000500000 USD, rate card t4, 0.5 USD an hour\n")));
}

TEST(ExplainTest, EveryOddityHasItsSentence) {
  FoundRequest found = Found();
  found.request.reference_nanousd = 100'000;
  found.request.reference_id = "api@2026";
  EXPECT_THAT(Explain(found), HasSubstr("Reference price api@2026: 0.000100000 USD, "
                                        "0.000400000 less; idle time"));
  found.request.cost_nanousd = 400'000;
  EXPECT_THAT(Explain(found), HasSubstr("0.5 USD an hour; others were in force before\n"));
  found.request.unrecorded_ns = 5;
  EXPECT_THAT(Explain(found), HasSubstr("0.000000005 s while the usage store"));
  found.request.preemptions = 2;
  EXPECT_THAT(Explain(found), HasSubstr("set back 2 times"));
  found.request.cached_tokens = 256;
  EXPECT_THAT(Explain(found), HasSubstr("256 of the prompt tokens were in the cache"));
  found.request.cost_nanousd.reset();
  EXPECT_THAT(Explain(found), HasSubstr("no rate card"));
  found.request.written_off = true;
  found.request.outcome = "error";
  found.request.code = 13;
  EXPECT_THAT(Explain(found), AllOf(HasSubstr("it failed (INTERNAL)"), HasSubstr("Cost: nothing")));
  found.request.steps = 0;
  EXPECT_THAT(Explain(found), AllOf(HasSubstr("never ran"), Not(HasSubstr("wrote"))));
}

}  // namespace
}  // namespace tuppence
