// Idempotency keys, through both doors: the same request is answered and billed once, another one
// is refused, and what the books alone remember is made again at no price (C15 of our list).
#include "service/answer_keys.h"

#include <chrono>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "service/convert.h"
#include "service/usage_store.h"
#include "tests/service/http_client.h"
#include "tests/service/service_harness.h"
#include "tests/service/usage_files.h"
#include "tests/support/fake_clock.h"

namespace tuppence {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

v1::GenerateRequest Unseeded() {
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  request.mutable_sampling()->clear_seed();
  request.mutable_sampling()->set_max_tokens(12);
  return request;
}

// Unseeded in OpenAI's words.
Json UnseededBody() {
  return {{"messages", {{{"role", "user"}, {"content", "Where is my order 48213?"}}}},
          {"max_tokens", 12},
          {"ignore_eos", true},
          {"return_token_ids", true}};
}

CallOptions Keyed(const std::string& key, const std::string& tenant = "shop") {
  return {.metadata = {{"idempotency-key", key}, {"x-tenant", tenant}}};
}

HarnessOptions WithTenants() {
  HarnessOptions options;
  options.limits.tenant_header = "x-tenant";
  return options;
}

class AnswerKeysTest : public ::testing::Test {
 protected:
  int64_t accepted() const { return service_.engine.Snapshot().requests_accepted; }
  HttpAnswer Post(const Json& body, const std::string& key) {
    return Ask(service_.http->port(), "POST", kChat, body.dump(),
               {{"Idempotency-Key", key}, {"X-Tenant", "shop"}});
  }

  ServiceHarness service_{WithTenants()};
};

TEST_F(AnswerKeysTest, TheSameRequestIsAnsweredAndBilledOnce) {
  const auto first = service_.Generate(Unseeded(), Keyed("k"));
  ASSERT_EQ(first->Wait().code, kOk);
  EXPECT_EQ(first->cost().replay_of(), "");
  const int64_t before = accepted();
  const auto again = service_.Generate(Unseeded(), Keyed("k"));
  ASSERT_EQ(again->Wait().code, kOk);
  EXPECT_EQ(accepted(), before) << "nothing was computed";
  EXPECT_EQ(again->token_ids(), first->token_ids());
  EXPECT_EQ(again->text(), first->text());
  EXPECT_EQ(again->start().request_id(), first->start().request_id());
  EXPECT_EQ(again->start().seed(), first->start().seed()) << "the drawn one";
  EXPECT_EQ(again->start().prompt_tokens(), first->start().prompt_tokens());
  EXPECT_EQ(again->usage().SerializeAsString(), first->usage().SerializeAsString());
  EXPECT_EQ(again->cost().replay_of(), first->start().request_id());
  EXPECT_TRUE(again->cost().has_cost_nanousd());
  EXPECT_EQ(again->cost().cost_nanousd(), 0);
  EXPECT_EQ(again->cost().machine_ns(), 0);
  EXPECT_EQ(again->Wait().initial.count("idempotent-replayed"), 1u);
  EXPECT_EQ(first->Wait().initial.count("idempotent-replayed"), 0u);
  service_.ExpectAtRest();  // the log's line is written behind the last message
  EXPECT_THAT(service_.log(),
              HasSubstr(absl::StrCat("\"replay_of\":\"", first->start().request_id(), "\"")));
  service_.ExpectUnharmed();
}

TEST_F(AnswerKeysTest, OverHttpTheSameObjectComesBackAndBothDoorsShareTheKey) {
  Json body = UnseededBody();
  const HttpAnswer first = Post(body, "k");
  ASSERT_EQ(first.status, 200) << first.body;
  const int64_t before = accepted();
  const HttpAnswer again = Post(body, "k");
  ASSERT_EQ(again.status, 200);
  EXPECT_EQ(again.headers.at("idempotent-replayed"), "true");
  Json expected = first.json(), found = again.json();
  EXPECT_EQ(found["usage"]["cost_nanousd"], 0);
  EXPECT_EQ(
      absl::StrCat("chatcmpl-", found["usage"]["cost_details"]["replay_of"].get<std::string>()),
      expected["id"]);
  for (const char* name : {"cost", "cost_nanousd", "cost_details"}) {
    expected["usage"].erase(name);
    found["usage"].erase(name);
  }
  EXPECT_EQ(found, expected);
  // How the answer is to be written is no part of what is asked.
  body["stream"] = true;
  const HttpAnswer events = Post(body, "k");
  EXPECT_EQ(events.headers.at("idempotent-replayed"), "true");
  EXPECT_EQ(Json::parse(events.events()[0])["choices"][0]["delta"]["content"],
            first.json()["choices"][0]["message"]["content"]);
  EXPECT_EQ(events.events().back(), "[DONE]");
  const auto grpc = service_.Generate(Unseeded(), Keyed("k"));
  EXPECT_EQ(grpc->Wait().code, kOk);
  EXPECT_EQ(Json(grpc->token_ids()), first.json()["choices"][0]["token_ids"]);
  EXPECT_EQ(accepted(), before);
}

TEST_F(AnswerKeysTest, AnotherRequestOfTheSameKeyIsRefused) {
  ASSERT_EQ(service_.Generate(Unseeded(), Keyed("k"))->Wait().code, kOk);
  v1::GenerateRequest other = Unseeded();
  other.mutable_sampling()->set_max_tokens(13);
  const auto refused = service_.Generate(other, Keyed("k"));
  EXPECT_EQ(refused->Wait().code, kAlreadyExists);
  EXPECT_EQ(refused->Wait().reason, "IDEMPOTENCY_KEY_REUSED");
  EXPECT_THAT(refused->Wait().message, HasSubstr("another key"));
  Json body = UnseededBody();
  body["temperature"] = 0.5;
  const HttpAnswer answer = Post(body, "k");
  EXPECT_EQ(answer.status, 409);
  EXPECT_EQ(answer.error()["code"], "idempotency_key_reused");
  EXPECT_EQ(answer.headers.at("x-should-retry"), "false");
  // Another tenant's key of that name is another key.
  const auto theirs = service_.Generate(other, Keyed("k", "crawl"));
  EXPECT_EQ(theirs->Wait().code, kOk);
  EXPECT_EQ(theirs->cost().replay_of(), "");
  service_.ExpectUnharmed();
}

TEST_F(AnswerKeysTest, WhileTheFirstIsAtWorkTheSecondHearsWhenToComeAgain) {
  service_.executor.held = true;
  const auto first = service_.Start(Unseeded(), Keyed("k"));
  while (service_.admission.snapshot().requests == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const auto second = service_.Generate(Unseeded(), Keyed("k"));
  EXPECT_EQ(second->Wait().code, kAborted);
  EXPECT_EQ(second->Wait().reason, "IDEMPOTENCY_IN_PROGRESS");
  EXPECT_EQ(second->Wait().retry_ms, 1000);
  const HttpAnswer over_http = Post(UnseededBody(), "k");
  EXPECT_EQ(over_http.status, 409);
  EXPECT_EQ(over_http.headers.at("retry-after"), "1");
  EXPECT_EQ(over_http.headers.at("x-should-retry"), "true");
  service_.executor.held = false;
  ASSERT_EQ(first->Wait().code, kOk);
  service_.ExpectAtRest();
  EXPECT_EQ(service_.Generate(Unseeded(), Keyed("k"))->token_ids(), first->token_ids());
}

TEST_F(AnswerKeysTest, AnAnswerWhoseCallerWentAwayIsMadeToItsEndForTheRetry) {
  service_.executor.step_us = 2000;
  v1::GenerateRequest request = Unseeded();
  request.mutable_sampling()->set_max_tokens(60);
  const auto gone = service_.Start(request, Keyed("grpc"));
  ASSERT_TRUE(gone->WaitForMessages(2));
  gone->Cancel();
  Json body = UnseededBody();
  body["max_tokens"] = 61;
  body["stream"] = true;
  {
    HttpClient client(service_.http->port());
    client.Send("POST", kChat, body.dump(), {{"Idempotency-Key", "http"}, {"X-Tenant", "shop"}});
    ASSERT_TRUE(client.WaitForEvents(2));
    client.connection().Reset();
  }
  service_.ExpectAtRest();
  const int64_t before = accepted();
  const auto again = service_.Generate(request, Keyed("grpc"));
  ASSERT_EQ(again->Wait().code, kOk);
  EXPECT_EQ(again->token_ids().size(), 60u);
  EXPECT_EQ(again->usage().completion_tokens(), 60);
  const HttpAnswer answer = Post(body, "http");
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.headers.at("idempotent-replayed"), "true");
  EXPECT_EQ(accepted(), before);
}

TEST_F(AnswerKeysTest, WhatWasNotAnsweredLeavesItsKeyFree) {
  service_.executor.step_us = 10'000;
  v1::GenerateRequest request = Unseeded();
  request.mutable_sampling()->set_max_tokens(500);
  CallOptions hasty = Keyed("k");
  hasty.deadline_ms = 100;
  EXPECT_EQ(service_.Generate(request, hasty)->Wait().code, kDeadlineExceeded);
  service_.ExpectAtRest();
  service_.executor.step_us = 0;
  const auto again = service_.Generate(request, Keyed("k"));
  EXPECT_EQ(again->Wait().code, kOk);
  EXPECT_EQ(again->cost().replay_of(), "");
  // Neither does a request that was refused take it.
  v1::GenerateRequest bad = Unseeded();
  bad.mutable_sampling()->set_max_tokens(0);
  EXPECT_EQ(service_.Generate(bad, Keyed("other"))->Wait().code, kInvalidArgument);
  EXPECT_EQ(service_.Generate(Unseeded(), Keyed("other"))->Wait().code, kOk);
}

TEST_F(AnswerKeysTest, AKeyIs1To128PrintableCharactersOnce) {
  for (const std::string& key : {std::string(), std::string(129, 'k')}) {
    const auto refused = service_.Generate(Unseeded(), Keyed(key));
    EXPECT_EQ(refused->Wait().code, kInvalidArgument);
    EXPECT_EQ(refused->Wait().violations.at(0).field, "idempotency-key");
  }
  CallOptions twice = Keyed("k");
  twice.metadata.emplace("idempotency-key", "j");
  EXPECT_EQ(service_.Generate(Unseeded(), twice)->Wait().code, kInvalidArgument);
  EXPECT_EQ(Post(UnseededBody(), std::string(129, 'k')).status, 400);
  EXPECT_EQ(Post(UnseededBody(), "caf\xc3\xa9").status, 400);
  EXPECT_EQ(Post(UnseededBody(), std::string(128, 'k')).status, 200);
  service_.ExpectUnharmed();
}

// A store in which the key "k" of tenant "shop" was answered, as request "the-first".
std::string StoreWithKey(const v1::GenerateRequest& request, FinishReason reason,
                         const std::string& arithmetic_id = "") {
  const std::string path = EmptyFolder() + "/usage.db";
  FakeClock clock(5'000'000);
  auto store = UsageStore::Open({.path = path}, {.version = "1"}, &clock).value();
  EXPECT_TRUE(store->NameModel("demo", arithmetic_id).ok());
  v1::GenerateRequest copy = request;
  std::vector<EndedRequest> ended;
  ended.push_back(MakeEnded(1));
  RequestRow& row = ended[0].row;
  row.id = "the-first";
  row.tenant = "shop";
  row.reason = reason;
  row.code = absl::StatusCode::kOk;
  row.key = std::make_shared<const AnswerKey>(
      AnswerKey{"k", RequestSha256(AskFromProto(&copy)), ~uint64_t{6}});
  EXPECT_TRUE(store->Write(ended, {}).ok());
  EXPECT_TRUE(store->Write(ended, {}).ok()) << "the same again changes nothing";
  EXPECT_EQ(QueryOne(path, "SELECT count(*) FROM answer_keys"), "1");
  return path;
}

TEST(AnswerKeysOfTheBooksTest, WhatTheBooksAloneRememberIsMadeAgainAtNoPrice) {
  HarnessOptions options = WithTenants();
  options.usage_store = StoreWithKey(Unseeded(), FinishReason::kLength);
  ServiceHarness service(options);
  v1::GenerateRequest seeded = Unseeded();
  seeded.mutable_sampling()->set_seed(~uint64_t{6});
  const auto expected = service.Generate(seeded);
  const auto replay = service.Generate(Unseeded(), Keyed("k"));
  ASSERT_EQ(replay->Wait().code, kOk) << replay->Wait().message;
  EXPECT_EQ(replay->token_ids(), expected->token_ids());
  EXPECT_EQ(replay->start().seed(), ~uint64_t{6});
  EXPECT_EQ(replay->start().request_id(), "the-first");
  EXPECT_EQ(replay->cost().replay_of(), "the-first");
  EXPECT_GT(replay->cost().machine_ns(), 0) << "the time is told";
  EXPECT_EQ(replay->cost().cost_nanousd(), 0) << "and costs nothing";
  const int64_t before = service.engine.Snapshot().requests_accepted;
  const auto third = service.Generate(Unseeded(), Keyed("k"));
  EXPECT_EQ(third->token_ids(), expected->token_ids());
  EXPECT_EQ(third->cost().replay_of(), "the-first");
  EXPECT_EQ(service.engine.Snapshot().requests_accepted, before) << "from memory by now";
  EXPECT_EQ(service.Generate(seeded, Keyed("k"))->Wait().code, kAlreadyExists);
  EXPECT_EQ(service.Generate(seeded, Keyed("k", "crawl"))->Wait().code, kOk);
}

TEST(AnswerKeysOfTheBooksTest, AnAnswerThatCannotBeMadeAgainSaysSo) {
  for (const std::string why : {"max_cost_nanousd", "another-arithmetic", "--deterministic off"}) {
    HarnessOptions options = WithTenants();
    options.usage_store = StoreWithKey(
        Unseeded(), why == "max_cost_nanousd" ? FinishReason::kCostLimit : FinishReason::kLength,
        why == "another-arithmetic" ? why : "");
    ServiceHarness service(options);
    service.model.repeatable = why != "--deterministic off";
    const auto gone = service.Generate(Unseeded(), Keyed("k"));
    EXPECT_EQ(gone->Wait().code, kAlreadyExists);
    EXPECT_EQ(gone->Wait().reason, "IDEMPOTENCY_ANSWER_GONE");
    EXPECT_THAT(gone->Wait().message, HasSubstr(why));
    const auto other = service.Generate(Unseeded(), Keyed("another"));
    ASSERT_EQ(other->Wait().code, kOk);
    EXPECT_EQ(service.Generate(Unseeded(), Keyed("another"))->token_ids(), other->token_ids())
        << "what is in memory needs not be made again";
  }
}

TEST(AnswerKeysOfTheBooksTest, TheOldestAnswersLeaveTheMemory) {
  ServedModel model;
  AnswerKeys keys(&model, "", 4096);
  for (int i = 0; i < 8; ++i) {
    const std::string name = absl::StrCat(i);
    ASSERT_TRUE(keys.Claim("t", name, "sha").ok());
    auto answer = std::make_shared<KeptAnswer>();
    answer->first.request_sha256 = "sha";
    keys.Release("t", name, answer, 500);
  }
  for (int i = 0; i < 8; ++i) {
    const auto claim = keys.Claim("t", absl::StrCat(i), "sha");
    ASSERT_TRUE(claim.ok());
    EXPECT_EQ(claim->kept != nullptr, i >= 4) << i;
  }
  EXPECT_EQ(keys.Claim("t", "0", "sha").status().code(), absl::StatusCode::kAborted);
}

TEST(AnswerKeysOfTheBooksTest, AnAnswerTooLargeToKeepIsNotKept) {
  AnswerGatherer gatherer;
  StreamDelta delta;
  delta.choices.resize(1);
  delta.choices[0].text = std::string(700'000, 'x');
  gatherer.Add(delta);
  gatherer.Add(delta);
  EXPECT_EQ(gatherer.Finish({}, 1, {}), nullptr);
}

}  // namespace
}  // namespace tuppence
