// Completions over HTTP: OpenAI's objects, whole and as events, their usage and cost; the same
// answer and charge as over gRPC; and what becomes of callers who leave or do not read.
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "tests/service/http_client.h"
#include "tests/service/service_harness.h"

namespace tuppence {
namespace {

using ::testing::Contains;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using Json = nlohmann::json;

constexpr char kText[] = "/v1/completions";

// ServiceHarness::GoodRequest in OpenAI's words.
Json GoodBody() {
  return {{"model", "demo"},
          {"messages", {{{"role", "user"}, {"content", "Where is my order 48213?"}}}},
          {"max_tokens", 4},
          {"seed", 7},
          {"ignore_eos", true}};
}

Json LongBody(int max_tokens = 1500) {
  Json body = GoodBody();
  body["max_tokens"] = max_tokens;
  return body;
}

// The text of all events of a choice.
std::string TextOf(const HttpAnswer& answer, int choice = 0) {
  std::string text;
  for (const std::string& event : answer.events()) {
    if (event == "[DONE]") continue;
    for (const Json& part : Json::parse(event).value("choices", Json::array())) {
      if (part["index"] != choice) continue;
      text += part.contains("text") ? part["text"].get<std::string>()
                                    : part["delta"].value("content", "");
    }
  }
  return text;
}

// Times that a usage object tells are whole: their parts add up to the total.
void ExpectTimesOf(const Json& usage) {
  const Json& times = usage.at("time_details");
  const double total = times.at("total_seconds");
  EXPECT_GT(total, 0);
  EXPECT_NEAR(times.at("queue_seconds").get<double>() + times.at("prefill_seconds").get<double>() +
                  times.at("decode_seconds").get<double>(),
              total, 1e-8);
  EXPECT_LE(times.at("time_to_first_token_seconds").get<double>(), total);
  EXPECT_GE(times.at("steps"), 1);
  EXPECT_EQ(times.at("preemptions"), 0);
  EXPECT_GE(times.at("mean_requests_per_step").get<double>(), 1);
}

class HttpCompletionTest : public ::testing::Test {
 protected:
  HttpAnswer Post(const std::string& path, const Json& body, HttpClient::Headers headers = {}) {
    return Ask(service_.http->port(), "POST", path, body.dump(), std::move(headers));
  }

  // How many answers the log calls cancelled.
  size_t Cancelled() const {
    const std::vector<std::string> parts =
        absl::StrSplit(service_.log(), "\"finish_reasons\":[\"cancelled\"]");
    return parts.size() - 1;
  }

  ServiceHarness service_;
};

TEST_F(HttpCompletionTest, ChatIsAnsweredAsOverGrpcAndCostsAsMuch) {
  const HttpAnswer answer = Post(kChat, GoodBody());
  ASSERT_EQ(answer.status, 200) << answer.body;
  const Json json = answer.json();
  EXPECT_THAT(json["id"].get<std::string>(), HasSubstr("chatcmpl-"));
  EXPECT_EQ(json["object"], "chat.completion");
  EXPECT_EQ(json["model"], "demo");
  EXPECT_EQ(json["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(json["choices"][0]["finish_reason"], "length");
  EXPECT_TRUE(json["choices"][0]["logprobs"].is_null());
  const auto grpc = service_.Generate(ServiceHarness::GoodRequest());
  EXPECT_EQ(json["choices"][0]["message"]["content"], grpc->text());
  const Json& usage = json["usage"];
  EXPECT_EQ(usage["prompt_tokens"], grpc->usage().prompt_tokens());
  EXPECT_EQ(usage["completion_tokens"], 4);
  EXPECT_EQ(usage["total_tokens"], grpc->usage().prompt_tokens() + 4);
  EXPECT_TRUE(usage["prompt_tokens_details"]["cached_tokens"].is_number());
  // One ledger: money is machine time at the harness' rate of 0.526 USD an hour, in both answers.
  const int64_t machine_ns = usage["cost_details"]["machine_ns"];
  EXPECT_GT(machine_ns, 0);
  EXPECT_NEAR(usage["cost_nanousd"].get<double>(), machine_ns * 526e6 / 3.6e12, 0.51);
  EXPECT_DOUBLE_EQ(usage["cost"].get<double>(), usage["cost_nanousd"].get<double>() * 1e-9);
  EXPECT_EQ(usage["cost_details"]["rate_card_id"], grpc->cost().rate_card_id());
  ExpectTimesOf(usage);
  EXPECT_EQ(usage["time_details"]["steps"], grpc->usage().steps());
  service_.ExpectUnharmed();
}

TEST_F(HttpCompletionTest, EventsCarryTheSameTextAndThenUsage) {
  Json body = LongBody(100);
  const std::string whole = Post(kChat, body).json()["choices"][0]["message"]["content"];
  body["stream"] = true;
  const HttpAnswer plain = Post(kChat, body);
  EXPECT_EQ(plain.headers.at("content-type"), "text/event-stream; charset=utf-8");
  EXPECT_EQ(TextOf(plain), whole);
  ASSERT_GE(plain.events().size(), 2u);
  EXPECT_EQ(plain.events().back(), "[DONE]");
  const Json first = Json::parse(plain.events()[0]);
  EXPECT_EQ(first["object"], "chat.completion.chunk");
  EXPECT_EQ(first["choices"][0]["delta"]["role"], "assistant");
  EXPECT_FALSE(first.contains("usage"));
  EXPECT_EQ(Json::parse(plain.events().end()[-2])["choices"][0]["finish_reason"], "length");
  body["stream_options"]["include_usage"] = true;
  const HttpAnswer with_usage = Post(kChat, body);
  EXPECT_EQ(TextOf(with_usage), whole);
  EXPECT_TRUE(Json::parse(with_usage.events()[0])["usage"].is_null());
  const Json last = Json::parse(with_usage.events().end()[-2]);
  EXPECT_THAT(last["choices"], IsEmpty());
  EXPECT_EQ(last["usage"]["completion_tokens"], 100);
  EXPECT_GT(last["usage"]["cost"], 0);
  service_.ExpectUnharmed();
}

TEST_F(HttpCompletionTest, TextIsContinuedFromWordsOrIds) {
  const Json body = {{"prompt", "Where is"}, {"max_tokens", 8}, {"seed", 3}, {"ignore_eos", true}};
  const HttpAnswer answer = Post(kText, body);
  ASSERT_EQ(answer.status, 200) << answer.body;
  EXPECT_EQ(answer.json()["object"], "text_completion");
  v1::GenerateRequest request;
  request.set_text("Where is");
  request.mutable_sampling()->set_max_tokens(8);
  request.mutable_sampling()->set_seed(3);
  request.mutable_sampling()->set_ignore_eos(true);
  EXPECT_EQ(answer.json()["choices"][0]["text"], service_.Generate(request)->text());
  Json by_ids = body;
  by_ids["prompt"] =
      Ask(service_.http->port(), "POST", "/tokenize", R"({"prompt":"Where is"})").json()["tokens"];
  EXPECT_EQ(Post(kText, by_ids).json()["choices"], answer.json()["choices"]);
  by_ids["stream"] = true;
  EXPECT_EQ(TextOf(Post(kText, by_ids)), answer.json()["choices"][0]["text"]);
}

TEST_F(HttpCompletionTest, LogprobsHaveTheirShapes) {
  Json body = GoodBody();
  body["logprobs"] = true;
  body["top_logprobs"] = 2;
  const Json content = Post(kChat, body).json()["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), 4u);
  for (const Json& token : content) {
    EXPECT_LE(token["logprob"].get<double>(), 0);
    EXPECT_TRUE(token["bytes"].is_array());
    EXPECT_TRUE(token["top_logprobs"].is_array());
  }
  const Json lists =
      Post(kText,
           {{"prompt", "Where is"}, {"logprobs", 1}, {"max_tokens", 3}, {"ignore_eos", true}})
          .json()["choices"][0]["logprobs"];
  for (const char* name : {"tokens", "token_logprobs", "top_logprobs", "text_offset"}) {
    EXPECT_EQ(lists[name].size(), 3u) << name;
  }
  EXPECT_EQ(lists["text_offset"][0], 0);
}

TEST_F(HttpCompletionTest, ChoicesComeUnderTheirIndex) {
  Json body = LongBody(20);
  body["n"] = 3;
  const Json choices = Post(kChat, body).json()["choices"];
  ASSERT_EQ(choices.size(), 3u);
  body["stream"] = true;
  const HttpAnswer stream = Post(kChat, body);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(TextOf(stream, i), choices[i]["message"]["content"]);
}

TEST_F(HttpCompletionTest, ALimitOfCostEndsTheAnswer) {
  service_.executor.step_us = 2000;
  Json body = LongBody();
  body["max_cost_nanousd"] = 10'000;
  const Json whole = Post(kChat, body).json();
  EXPECT_EQ(whole["choices"][0]["finish_reason"], "cost_limit") << whole;
  EXPECT_LT(whole["usage"]["completion_tokens"], 1500);
  EXPECT_EQ(Post(kText, {{"prompt", "Where is"},
                         {"max_tokens", 1500},
                         {"ignore_eos", true},
                         {"max_cost_nanousd", 10'000}})
                .json()["choices"][0]["finish_reason"],
            "cost_limit");
  body["stream"] = true;
  const HttpAnswer stream = Post(kChat, body);
  EXPECT_EQ(stream.events().back(), "[DONE]");
  EXPECT_EQ(Json::parse(stream.events().end()[-2])["choices"][0]["finish_reason"], "cost_limit");
  service_.executor.step_us = 0;
  service_.ExpectUnharmed();
}

TEST_F(HttpCompletionTest, OpenAiSpellingsOfTheSameRequest) {
  const Json expected = Post(kChat, GoodBody()).json()["choices"];
  Json body = GoodBody();
  body["messages"][0]["content"] = {{{"type", "text"}, {"text", "Where is my order 48213?"}}};
  EXPECT_EQ(Post(kChat, body).json()["choices"], expected);
  body = GoodBody();
  body["max_completion_tokens"] = 4;
  body["max_tokens"] = 9;  // the other one wins
  EXPECT_EQ(Post(kChat, body).json()["choices"], expected);
  body = GoodBody();
  body["messages"].insert(body["messages"].begin(),
                          Json{{"role", "system"}, {"content", "Be kind."}});
  const Json with_system = Post(kChat, body).json()["choices"];
  body["messages"][0]["role"] = "developer";
  EXPECT_EQ(Post(kChat, body).json()["choices"], with_system);
  // Known and without effect; null is as good as absent.
  body = GoodBody();
  body.update({{"user", "u"},
               {"store", true},
               {"metadata", {{"a", "b"}}},
               {"service_tier", "auto"},
               {"parallel_tool_calls", true},
               {"reasoning_effort", "low"},
               {"stop", nullptr},
               {"tools", nullptr},
               {"response_format", {{"type", "text"}}},
               {"logit_bias", nullptr}});
  EXPECT_EQ(Post(kChat, body).json()["choices"], expected);
}

TEST_F(HttpCompletionTest, IdsGoBackAndTheTraceIsKept) {
  const HttpAnswer own = Post(kChat, GoodBody());
  EXPECT_EQ(own.headers.at("x-request-id"), own.headers.at("tuppence-request-id"));
  EXPECT_EQ(own.headers.at("tuppence-request-id").size(), 32u);
  const HttpAnswer named = Post(kChat, GoodBody(), {{"X-Request-Id", "mine"}});
  EXPECT_EQ(named.headers.at("x-request-id"), "mine");
  Json body = GoodBody();
  body["temperature"] = -1;
  EXPECT_EQ(Post(kChat, body, {{"X-Request-Id", "mine"}}).headers.at("x-request-id"), "mine");
  service_.ExpectAtRest();
  EXPECT_THAT(service_.log(), HasSubstr("\"method\":\"ChatCompletion\""));
  EXPECT_THAT(service_.log(), HasSubstr("\"caller_request_id\":\"mine\""));
}

TEST_F(HttpCompletionTest, ConnectionServesOneRequestAfterTheOther) {
  HttpClient client(service_.http->port());
  std::string text;
  for (int i = 0; i < 5; ++i) {
    client.Send("POST", kChat, GoodBody().dump());
    const HttpAnswer answer = client.Receive();
    ASSERT_EQ(answer.status, 200);
    EXPECT_EQ(answer.headers.count("connection"), 0u);
  }
  // Also those that were sent before the answer.
  for (int i = 0; i < 3; ++i) client.Send("POST", kChat, GoodBody().dump());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(client.Receive().status, 200);
  service_.ExpectUnharmed();
}

// H9, A13: also where bytes that nobody needs yet are already behind the request, or more of them
// than the connection keeps. The step at hand is held, so that what follows it can be counted.
TEST_F(HttpCompletionTest, CallerWhoLeavesIsCancelledWithinOneStepWhateverElseItSent) {
  const std::string kNext = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n";
  size_t cancelled = 0;
  for (const bool stream : {true, false}) {
    for (const std::string& after :
         {std::string(), std::string("\r\n"), kNext, kNext + "X: " + std::string(300'000, 'x')}) {
      SCOPED_TRACE(absl::StrCat(stream, " ", after.size()));
      service_.executor.step_us = 5000;  // to the end it would take longer than anybody waits
      Json body = LongBody();
      body["stream"] = stream;
      HttpClient client(service_.http->port());
      client.Send("POST", kChat, body.dump());
      WaitFor([&] { return service_.engine.Snapshot().running == 1; });
      client.connection().Write(after);
      if (stream) {
        ASSERT_TRUE(client.WaitForEvents(2));
      }
      service_.executor.held = true;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));  // now it is
      const int64_t tokens = service_.engine.Snapshot().completion_tokens;
      client.connection().Reset();
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      service_.executor.held = false;
      service_.ExpectAtRest();
      EXPECT_LE(service_.engine.Snapshot().completion_tokens, tokens + 1);
      EXPECT_EQ(Cancelled(), ++cancelled);
    }
  }
  service_.executor.step_us = 0;
  service_.ExpectUnharmed();
}

TEST_F(HttpCompletionTest, LineEndsBehindABodyBelongToNothing) {
  HttpClient client(service_.http->port());
  for (int i = 0; i < 3; ++i) {
    client.Send("POST", kChat, GoodBody().dump());
    client.connection().Write(i == 1 ? "\r\n\r\n" : "\r\n");
    EXPECT_EQ(client.Receive().status, 200) << i;
  }
  service_.ExpectUnharmed();
}

TEST_F(HttpCompletionTest, FailureBeforeTheFirstEventIsAnErrorAndAfterItAnErrorEvent) {
  service_.executor.step_us = 1000;
  service_.executor.not_finite = true;
  Json body = LongBody();
  body["stream"] = true;
  const HttpAnswer before = Post(kChat, body);
  EXPECT_EQ(before.status, 500);
  EXPECT_EQ(before.error()["code"], "logits_not_finite");
  service_.executor.not_finite = false;
  HttpClient client(service_.http->port());
  client.Send("POST", kChat, body.dump());
  ASSERT_TRUE(client.WaitForEvents(3));
  service_.executor.not_finite = true;
  const HttpAnswer after = client.Receive();
  EXPECT_EQ(after.status, 200);
  EXPECT_THAT(after.events(), Each(Not("[DONE]")));
  const Json last = Json::parse(after.events().back());
  EXPECT_EQ(last["error"]["code"], "logits_not_finite");
  EXPECT_GT(last["usage"]["completion_tokens"], 0);
  service_.executor.not_finite = false;
  service_.executor.step_us = 0;
  service_.ExpectUnharmed();
}

TEST_F(HttpCompletionTest, AnErrorTellsWhatWasBookedBesideIt) {
  service_.executor.step_us = 1000;
  const HttpAnswer late = Post(kChat, LongBody(), {{"X-Request-Timeout-Ms", "50"}});
  EXPECT_EQ(late.status, 504);
  const Json usage = late.json()["usage"];
  EXPECT_GT(usage["completion_tokens"], 0);
  EXPECT_GT(usage["cost_nanousd"], 0);
  EXPECT_GT(usage["cost_details"]["machine_ns"], 0);
  EXPECT_GE(usage["time_details"]["total_seconds"], 0.05);
  ExpectTimesOf(usage);
  // The error itself has the four keys that clients know, and no more.
  EXPECT_EQ(late.error().size(), 4u) << late.body;
  // Our own fault, of a stream that has not begun: it costs nothing, and says what it took.
  service_.executor.step_us = 0;
  service_.executor.not_finite = true;
  Json stream = LongBody();
  stream["stream"] = true;
  const HttpAnswer failed = Post(kChat, stream);
  EXPECT_EQ(failed.status, 500);
  EXPECT_EQ(failed.json()["usage"]["cost_nanousd"], 0);
  EXPECT_GT(failed.json()["usage"]["cost_details"]["machine_ns"], 0);
  service_.executor.not_finite = false;
  // Who is refused before any work has nothing booked.
  Json bad = GoodBody();
  bad["temperature"] = -1;
  EXPECT_FALSE(Post(kChat, bad).json().contains("usage"));
  service_.ExpectUnharmed();
}

TEST_F(HttpCompletionTest, TimeUpIs504) {
  service_.executor.step_us = 1000;
  const HttpAnswer answer = Post(kChat, LongBody(), {{"X-Request-Timeout-Ms", "50"}});
  EXPECT_EQ(answer.status, 504);
  EXPECT_EQ(answer.headers.at("x-should-retry"), "false");
  EXPECT_EQ(Post(kChat, LongBody(), {{"X-Request-Timeout-Ms", "0"}}).status, 504);
  EXPECT_EQ(Post(kChat, LongBody(), {{"X-Request-Timeout-Ms", "soon"}}).status, 400);
  service_.executor.step_us = 0;
  EXPECT_EQ(Post(kChat, GoodBody(), {{"X-Request-Timeout-Ms", "315360000000"}}).status, 200);
  service_.ExpectUnharmed();
}

TEST(HttpLifecycleTest, SlowReaderPausesOnlyItselfAndThenGetsEverything) {
  HarnessOptions options;
  options.engine.context_tokens = 32'768;
  options.engine.blocks = 32'768;
  ServiceHarness service(options);
  // Some twenty megabytes: more than the buffers between us take from one who does not read.
  Json body = LongBody(15'000);
  body.update({{"n", 8}, {"logprobs", true}, {"stream", true}});
  HttpClient slow(service.http->port());
  slow.Send("POST", kChat, body.dump());
  int64_t tokens = 0;
  WaitFor([&] {  // until it stands still
    const int64_t before = std::exchange(tokens, service.engine.Snapshot().completion_tokens);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    return before > 1000 && tokens == before;
  });
  EXPECT_LT(tokens, 8 * 15'000);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(Ask(service.http->port(), "POST", kChat, GoodBody().dump()).status, 200);
  }
  std::string tail;
  while (tail.find("[DONE]") == std::string::npos) {
    const std::string some = slow.connection().ReadSome();
    ASSERT_FALSE(some.empty());
    tail = (tail + some).substr(tail.size() > 16 ? tail.size() - 16 : 0);
  }
  service.ExpectUnharmed();
}

TEST(HttpLifecycleTest, CallerWhoTakesNothingIsCutOff) {
  HarnessOptions options;
  options.engine.context_tokens = 32'768;
  options.engine.blocks = 32'768;
  options.http.limits.stall_ns = 300'000'000;
  ServiceHarness service(options);
  Json body = LongBody(15'000);
  body.update({{"n", 8}, {"logprobs", true}, {"stream", true}});
  HttpClient stalled(service.http->port());
  stalled.Send("POST", kChat, body.dump());
  WaitFor([&] { return service.counters.stalled_calls.load() == 1; });
  service.ExpectUnharmed();
}

TEST(HttpLifecycleTest, FullQueueIsToldWithWhenToRetry) {
  HarnessOptions options;
  options.admission.requests_max = 1;
  options.admission.retry_after_ms = 250;
  ServiceHarness service(options);
  service.executor.step_us = 1000;
  Json body = LongBody();
  body["stream"] = true;
  HttpClient first(service.http->port());
  first.Send("POST", kChat, body.dump());
  ASSERT_TRUE(first.WaitForEvents(1));
  const HttpAnswer refused = Ask(service.http->port(), "POST", kChat, body.dump());
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.headers.at("retry-after-ms"), "250");
  EXPECT_EQ(refused.headers.at("retry-after"), "1");
  EXPECT_EQ(refused.headers.at("x-should-retry"), "true");
  EXPECT_EQ(refused.error()["code"], "overloaded");
  // Before anything of the body is read, through both doors; each once in the counts and the log.
  EXPECT_EQ(Ask(service.http->port(), "POST", kChat, "{").error()["code"], "overloaded");
  EXPECT_EQ(service.CallBytes("Generate", "no message").reason, "QUEUE_FULL");
  // The last one's answer may be here before the handler has written it down.
  const auto logged = [&service] {
    const std::vector<std::string> parts =
        absl::StrSplit(service.log(), "\"reason\":\"QUEUE_FULL\"");
    return parts.size() - 1;
  };
  WaitFor([&] { return logged() >= 3 && service.counters.refused().at("QUEUE_FULL") >= 3; });
  EXPECT_EQ(service.counters.refused().at("QUEUE_FULL"), 3);
  EXPECT_EQ(logged(), 3u) << service.log();
  // Who may have its answer already is read all the same.
  EXPECT_EQ(Ask(service.http->port(), "POST", kChat, "{", {{"Idempotency-Key", "k"}}).status, 400);
  first.connection().Reset();
  service.executor.step_us = 0;
  service.ExpectUnharmed();
}

TEST(HttpLifecycleTest, DrainLetsRunningStreamsFinishAndRefusesNewOnes) {
  ServiceHarness service;
  service.executor.step_us = 1000;
  Json body = LongBody(200);
  body["stream"] = true;
  HttpClient running(service.http->port());
  running.Send("POST", kChat, body.dump());
  ASSERT_TRUE(running.WaitForEvents(1));
  service.server->SetNotServing();
  service.engine.BeginDrain(service.clock.NowNs() + 20'000'000'000);
  const HttpAnswer refused = Ask(service.http->port(), "POST", kChat, body.dump());
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.error()["code"], "draining");
  EXPECT_EQ(Ask(service.http->port(), "GET", "/health").status, 503);
  EXPECT_EQ(running.Receive().events().back(), "[DONE]");
  service.http->Stop(2'000'000'000);
  service.ExpectAtRest();
}

}  // namespace
}  // namespace tuppence
