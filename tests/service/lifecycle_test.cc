// What happens to a call that does not end by itself: cancelled, out of time, read slowly or not at
// all, caught by a drain or a failure; and hundreds at once.
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/service/service_harness.h"

namespace tuppence {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

v1::GenerateRequest LongRequest(int32_t max_tokens = 1500) {
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  request.mutable_sampling()->set_max_tokens(max_tokens);
  return request;
}

// A service and a request whose answer is some six megabytes: more than the connection's buffers
// take from a caller who does not read.
constexpr int32_t kManyTokens = 30'000;
HarnessOptions LongContext() {
  HarnessOptions options;
  options.engine.context_tokens = 32'768;
  options.engine.blocks = 32'768;
  return options;
}
v1::GenerateRequest ManyTokens() {
  v1::GenerateRequest request = LongRequest(kManyTokens);
  request.mutable_sampling()->set_n(8);
  request.mutable_output()->set_logprobs(true);
  return request;
}

// The step at hand is held, so that what follows it can be counted.
TEST(LifecycleTest, CancelledWhileRunningEndsWithTheStepAndGivesEverythingBack) {
  ServiceHarness service;
  service.executor.step_us = 1000;
  const auto call = service.Start(LongRequest());
  ASSERT_TRUE(call->WaitForMessages(3));
  EXPECT_GT(service.engine.Snapshot().blocks_used, 0);
  service.executor.held = true;
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // now it is
  const int64_t tokens = service.engine.Snapshot().completion_tokens;
  call->Cancel();
  EXPECT_EQ(call->Wait().code, kCancelled);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  service.executor.held = false;
  service.ExpectAtRest();
  EXPECT_LE(service.engine.Snapshot().completion_tokens, tokens + 1);
  service.ExpectUnharmed();
  EXPECT_THAT(service.log(), HasSubstr("\"outcome\":\"CANCELLED\""));
  EXPECT_THAT(service.log(), HasSubstr("\"finish_reasons\":[\"cancelled\"]"));
}

TEST(LifecycleTest, CancelledInTheQueueGivesEverythingBack) {
  HarnessOptions options;
  options.engine.sequences_max = 1;
  ServiceHarness service(options);
  service.executor.step_us = 1000;
  const auto running = service.Start(LongRequest());
  ASSERT_TRUE(running->WaitForMessages(1));
  const auto queued = service.Start(LongRequest());
  WaitFor([&] { return service.engine.Snapshot().waiting == 1; });
  queued->Cancel();
  EXPECT_EQ(queued->Wait().code, kCancelled);
  EXPECT_THAT(queued->messages(), IsEmpty());
  WaitFor([&] { return service.engine.Snapshot().waiting == 0; });
  EXPECT_TRUE(running->WaitForMessages(running->messages().size() + 1));  // its neighbour goes on
  running->Cancel();
  running->Wait();
  service.executor.step_us = 0;
  service.ExpectUnharmed();
}

TEST(LifecycleTest, DeadlineEndsTheWorkAsWellAsTheCall) {
  ServiceHarness service;
  service.executor.step_us = 1000;
  const auto call = service.Generate(LongRequest(), {.deadline_ms = 150});
  EXPECT_EQ(call->Wait().code, kDeadlineExceeded);
  service.executor.step_us = 0;
  service.ExpectUnharmed();
  EXPECT_THAT(service.log(), HasSubstr("\"outcome\":\"DEADLINE_EXCEEDED\""));
  EXPECT_THAT(service.log(), HasSubstr("\"finish_reasons\":[\"deadline\"]"));
}

TEST(LifecycleTest, SlowReaderPausesOnlyItselfAndThenGetsEverything) {
  ServiceHarness service(LongContext());
  const auto slow = service.Start(ManyTokens(), {.read = false});
  int64_t tokens = 0;
  WaitFor([&] {  // until it stands still
    const int64_t before = std::exchange(tokens, service.engine.Snapshot().completion_tokens);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    return before > 1000 && tokens == before;
  });
  EXPECT_LT(tokens, 8 * kManyTokens);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(service.Generate(ServiceHarness::GoodRequest())->Wait().code, kOk);
  }
  slow->Resume();
  ASSERT_EQ(slow->Wait().code, kOk) << slow->Wait().message;
  for (int choice = 0; choice < 8; ++choice) {
    EXPECT_THAT(slow->token_ids(choice), SizeIs(kManyTokens));
  }
  service.ExpectUnharmed();
}

// A12: a peer that never reads holds its place no longer than the stall limit.
TEST(LifecycleTest, CallerWhoTakesNothingIsCutOff) {
  HarnessOptions options = LongContext();
  options.server.stall_ns = 300'000'000;
  options.engine.stall_limit_ns = 300'000'000;
  ServiceHarness service(options);
  const auto stalled = service.Start(ManyTokens(), {.read = false});
  WaitFor([&] { return service.engine.Snapshot().running == 1; });
  service.ExpectUnharmed();  // waits for everything to be given back
  // The engine lets go first; the door's own sweep then cuts the pending write off.
  WaitFor([&] { return service.counters.stalled_calls.load() >= 1; });
  WaitFor([&] { return service.log().find("SLOW_READER") != std::string::npos; });
}

TEST(LifecycleTest, HundredsOfStreamsAtOnceAllEndRight) {
  HarnessOptions options;
  options.engine.sequences_max = 256;
  options.engine.logit_rows_max = 256;
  options.engine.blocks = 8192;
  ServiceHarness service(options);
  const auto expected = service.Generate(LongRequest(100))->token_ids();
  std::vector<std::unique_ptr<OngoingCall>> calls;
  for (int i = 0; i < 400; ++i) calls.push_back(service.Start(LongRequest(100)));
  for (int i = 0; i < 400; i += 10) calls[i]->Cancel();
  for (int i = 0; i < 400; ++i) {
    const CallEnd& end = calls[i]->Wait();
    if (i % 10 == 0) continue;  // cancelled, or done before
    ASSERT_EQ(end.code, kOk) << end.message;
    EXPECT_EQ(calls[i]->token_ids(), expected);
  }
  service.ExpectUnharmed();
}

TEST(LifecycleTest, FullQueueRefusesAtOnceWithWhenToRetry) {
  HarnessOptions options;
  options.admission.requests_max = 2;
  options.admission.retry_after_ms = 250;
  ServiceHarness service(options);
  service.executor.step_us = 1000;
  const auto first = service.Start(LongRequest());
  const auto second = service.Start(LongRequest());
  WaitFor([&] { return service.admission.snapshot().requests == 2; });
  const auto begin = std::chrono::steady_clock::now();
  const auto third = service.Generate(LongRequest());
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(500));
  const CallEnd& end = third->Wait();
  EXPECT_EQ(end.code, kUnavailable);
  EXPECT_EQ(end.reason, "QUEUE_FULL");
  EXPECT_EQ(end.retry_ms, 250);
  EXPECT_EQ(end.trailing.find("grpc-retry-pushback-ms")->second, "250");
  EXPECT_EQ(end.initial.count("tuppence-request-id"), 0u);  // not committed: may be retried
  EXPECT_EQ(end.request_id.size(), 32u);
  first->Cancel();
  second->Cancel();
  first->Wait();
  second->Wait();
  service.executor.step_us = 0;
  service.ExpectUnharmed();
}

TEST(LifecycleTest, PromptTokensAreReservedByTheirBoundAndTheExcessIsGivenBack) {
  HarnessOptions options;
  options.admission.prompt_tokens_max = 600;
  ServiceHarness service(options);
  service.executor.step_us = 1000;
  v1::GenerateRequest request = LongRequest();
  std::string words;
  for (int i = 0; i < 80; ++i) words += "order ";
  request.mutable_chat()->mutable_messages(0)->set_content(words);
  const auto first = service.Start(request);  // 480 bytes, some 80 tokens once they are counted
  ASSERT_TRUE(first->WaitForMessages(1));
  EXPECT_LT(service.admission.snapshot().prompt_tokens, 200);
  const auto second = service.Start(request);
  ASSERT_TRUE(second->WaitForMessages(1)) << second->Wait().message;
  request.mutable_chat()->mutable_messages(0)->set_content(words + words);
  const auto third = service.Generate(request);  // 960 bytes cannot fit, whatever they become
  EXPECT_EQ(third->Wait().code, kUnavailable);
  EXPECT_EQ(third->Wait().reason, "QUEUE_FULL");
  first->Cancel();
  second->Cancel();
  first->Wait();
  second->Wait();
  service.ExpectAtRest();
}

TEST(LifecycleTest, TenantsShareIsTheirsAndTheirNeighboursGoOn) {
  HarnessOptions options;
  options.limits.tenant_header = "x-tenant";
  options.admission.tenant_requests_max = 1;
  ServiceHarness service(options);
  service.executor.step_us = 1000;
  const auto first = service.Start(LongRequest(), {.metadata = {{"x-tenant", "a"}}});
  ASSERT_TRUE(first->WaitForMessages(1));
  const auto second = service.Generate(LongRequest(), {.metadata = {{"x-tenant", "a"}}});
  EXPECT_EQ(second->Wait().code, kResourceExhausted);
  EXPECT_EQ(second->Wait().reason, "TENANT_QUEUE_FULL");
  EXPECT_EQ(second->Wait().quota_subject, "tenant:a");
  EXPECT_TRUE(second->Wait().retry_ms.has_value());
  const auto other =
      service.Generate(ServiceHarness::GoodRequest(), {.metadata = {{"x-tenant", "b"}}});
  EXPECT_EQ(other->Wait().code, kOk);
  first->Cancel();
  first->Wait();
  service.executor.step_us = 0;
  service.ExpectUnharmed();
  EXPECT_THAT(service.log(), HasSubstr("\"tenant\":\"b\""));
}

TEST(LifecycleTest, TenantHeaderMeansNothingUnlessConfigured) {
  ServiceHarness service;
  service.Generate(ServiceHarness::GoodRequest(), {.metadata = {{"x-tenant", "forged"}}});
  service.ExpectAtRest();
  EXPECT_THAT(service.log(), HasSubstr("\"tenant\":\"unknown\""));
  EXPECT_EQ(service.log().find("forged"), std::string::npos);
}

TEST(LifecycleTest, DrainLetsRunningCallsFinishAndRefusesNewOnes) {
  ServiceHarness service;
  service.executor.step_us = 1000;
  const auto running = service.Start(LongRequest(200));
  ASSERT_TRUE(running->WaitForMessages(1));
  service.server->SetNotServing();
  service.engine.BeginDrain(service.clock.NowNs() + 20'000'000'000);
  const auto refused = service.Generate(ServiceHarness::GoodRequest());
  EXPECT_EQ(refused->Wait().code, kUnavailable);
  EXPECT_EQ(refused->Wait().reason, "DRAINING");
  EXPECT_EQ(running->Wait().code, kOk);
  EXPECT_THAT(running->token_ids(), SizeIs(200));
  service.ExpectAtRest();
  EXPECT_TRUE(service.engine.drained());
}

TEST(LifecycleTest, DrainEndsTheRestWithTheirUsageBooked) {
  ServiceHarness service;
  service.executor.step_us = 1000;
  const auto running = service.Start(LongRequest());
  ASSERT_TRUE(running->WaitForMessages(1));
  service.engine.BeginDrain(service.clock.NowNs() + 50'000'000);
  EXPECT_EQ(running->Wait().code, kUnavailable);
  EXPECT_EQ(running->finish_reason(), v1::FINISH_REASON_DRAINED);
  EXPECT_GT(running->usage().completion_tokens(), 0);
  EXPECT_GT(running->cost().machine_ns(), 0);
  service.ExpectAtRest();
  EXPECT_THAT(service.log(), HasSubstr("\"finish_reasons\":[\"drained\"]"));
}

TEST(LifecycleTest, FailedEngineEndsItsCallsAndIsNeitherLiveNorReady) {
  ServiceHarness service;
  service.executor.step_us = 1000;
  const auto running = service.Start(LongRequest());
  ASSERT_TRUE(running->WaitForMessages(1));
  service.executor.failing = true;
  EXPECT_EQ(running->Wait().code, kUnavailable);
  EXPECT_EQ(running->finish_reason(), v1::FINISH_REASON_ERROR);
  const auto next = service.Generate(ServiceHarness::GoodRequest());
  EXPECT_EQ(next->Wait().code, kUnavailable);
  EXPECT_EQ(next->Wait().reason, "ENGINE_FAILED");
  WaitFor([&] { return !service.server->readiness().ready; });
  EXPECT_FALSE(service.server->readiness().live);
}

TEST(LifecycleTest, LogitsThatAreNoNumbersEndOnlyTheirRequest) {
  ServiceHarness service;
  service.executor.not_finite = true;
  const auto call = service.Generate(LongRequest());
  EXPECT_EQ(call->Wait().code, kInternal);
  EXPECT_EQ(call->Wait().reason, "LOGITS_NOT_FINITE");
  service.executor.not_finite = false;
  service.ExpectUnharmed();
}

TEST(LifecycleTest, AnErrorBeforeTheFirstMessageCarriesWhatWasBooked) {
  HarnessOptions options;
  options.limits.deadline_max_ns = 60'000'000;
  options.engine.step_tokens_max = 64;
  ServiceHarness service(options);
  service.executor.step_us = 10'000;
  v1::GenerateRequest long_prompt = LongRequest(4);  // reading it takes 250 ms
  for (int i = 0; i < 1600; ++i) long_prompt.mutable_token_ids()->add_ids(300);
  const auto late = service.Generate(long_prompt);
  const CallEnd& end = late->Wait();
  EXPECT_EQ(end.code, kDeadlineExceeded);
  EXPECT_THAT(late->messages(), IsEmpty());
  ASSERT_TRUE(end.usage.has_value() && end.cost.has_value());
  EXPECT_EQ(end.usage->prompt_tokens(), 1600);
  EXPECT_EQ(end.usage->completion_tokens(), 0);
  EXPECT_GE(end.usage->total_seconds(), 0.06);
  EXPECT_GE(end.cost->machine_ns(), 10'000'000);
  EXPECT_GT(end.cost->cost_nanousd(), 0);
  // Our own fault costs nothing, and says what it took.
  service.executor.step_us = 0;
  service.executor.not_finite = true;
  const CallEnd failed = service.Generate(LongRequest())->Wait();
  ASSERT_TRUE(failed.cost.has_value());
  EXPECT_GT(failed.cost->machine_ns(), 0);
  EXPECT_TRUE(failed.cost->has_cost_nanousd());
  EXPECT_EQ(failed.cost->cost_nanousd(), 0);
  service.executor.not_finite = false;
  // Who is refused before any work has nothing booked.
  v1::GenerateRequest bad = LongRequest();
  bad.set_model("other");
  const CallEnd refused = service.Generate(bad)->Wait();
  EXPECT_EQ(refused.code, kNotFound);
  EXPECT_FALSE(refused.usage.has_value() || refused.cost.has_value());
  service.ExpectUnharmed();
}

TEST(LifecycleTest, AnErrorAfterTheFirstMessageCarriesWhatWasBookedInTheLast) {
  ServiceHarness service;
  service.executor.step_us = 1000;
  const auto call = service.Start(LongRequest());
  ASSERT_TRUE(call->WaitForMessages(2));
  service.executor.not_finite = true;
  EXPECT_EQ(call->Wait().reason, "LOGITS_NOT_FINITE");
  EXPECT_EQ(call->finish_reason(), v1::FINISH_REASON_ERROR);
  EXPECT_GT(call->usage().completion_tokens(), 0);
  EXPECT_GT(call->usage().decode_seconds(), 0);
  EXPECT_GT(call->cost().machine_ns(), 0);
  EXPECT_EQ(call->cost().cost_nanousd(), 0);  // our own fault
  EXPECT_FALSE(call->Wait().cost.has_value()) << "it is told once";
  service.executor.not_finite = false;
  service.executor.step_us = 0;
  service.ExpectUnharmed();
}

// The example's own retry policy, against a service that refuses once and then does not.
TEST(LifecycleTest, RefusalIsRetriedByTheServiceConfigAndAnAnswerThatBeganIsNot) {
  HarnessOptions options;
  options.admission.requests_max = 1;
  options.admission.retry_after_ms = 100;
  ServiceHarness service(options);
  service.executor.step_us = 1000;
  const auto retrying = NewChannel(service.address(), ServiceConfigOfTheExample());
  const auto blocking = service.Start(LongRequest(150));
  ASSERT_TRUE(blocking->WaitForMessages(1));
  OngoingCall call(retrying, ServiceHarness::GoodRequest(), {});
  EXPECT_EQ(call.Wait().code, kOk) << call.Wait().message;
  EXPECT_GE(service.admission.snapshot().refused_global, 1);
  blocking->Wait();

  const int64_t started = service.engine.Snapshot().requests_accepted;
  OngoingCall begun(retrying, LongRequest(), {});
  ASSERT_TRUE(begun.WaitForMessages(1));
  service.engine.BeginDrain(service.clock.NowNs());
  EXPECT_EQ(begun.Wait().code, kUnavailable);
  EXPECT_EQ(service.engine.Snapshot().requests_accepted, started + 1);
}

}  // namespace
}  // namespace tuppence
