// One table of bad inputs (sections C and D of our list), each sent through both doors: gRPC and
// HTTP give the same verdict, name the same field and leave the service as it was.
#include <cmath>
#include <functional>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/service/http_client.h"
#include "tests/service/service_harness.h"

namespace tuppence {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

// What a row changes in a good request, in each door's words.
struct Row {
  const char* name;
  std::function<void(v1::GenerateRequest&)> grpc;
  std::function<void(Json&)> http;
  int code = kInvalidArgument;
  const char* grpc_field = "";
  const char* http_param = "";  // "": none
  const char* http_code = "";   // "": null
};

// A sampling field that both call the same.
#define SAMPLING(NAME, VALUE)                                                                             \
  Row {                                                                                                   \
#NAME " " #VALUE,                                                                                     \
        [](auto&                                                                                          \
               r) { r.mutable_sampling()->set_##NAME(VALUE); },                                           \
                                                             [](Json &                                    \
                                                                b) { b[#NAME] = VALUE; },                 \
                                                                                       kInvalidArgument,  \
                                                                                       "sampling." #NAME, \
                                                                                       #NAME              \
  }

void SetContent(v1::GenerateRequest& request, const std::string& content) {
  request.mutable_chat()->mutable_messages(0)->set_content(content);
}
void SetContent(Json& body, const std::string& content) {
  body["messages"][0]["content"] = content;
}

std::vector<Row> Rows() {
  std::vector<Row> rows = {// C4, C5, C6
                           SAMPLING(n, 0),
                           SAMPLING(n, -1),
                           SAMPLING(n, 9),
                           SAMPLING(n, 1000000),
                           SAMPLING(n, kHighest),
                           SAMPLING(n, kLowest),
                           SAMPLING(max_tokens, 0),
                           SAMPLING(max_tokens, -1),
                           SAMPLING(min_tokens, 5),
                           SAMPLING(temperature, -0.1),
                           SAMPLING(temperature, 2.1),
                           SAMPLING(top_p, 0),
                           SAMPLING(top_p, -1),
                           SAMPLING(top_p, 1.1),
                           SAMPLING(top_k, -2),
                           SAMPLING(top_k, 4033),
                           SAMPLING(min_p, 1.1),
                           SAMPLING(min_p, -0.1),
                           SAMPLING(repetition_penalty, 0),
                           SAMPLING(repetition_penalty, 11),
                           SAMPLING(presence_penalty, -2.5),
                           SAMPLING(frequency_penalty, 2.5)};
  for (const int32_t tokens : {2048, 20480, kHighest}) {  // C5, D2
    rows.push_back({"max_tokens beyond the context",
                    [=](auto& r) { r.mutable_sampling()->set_max_tokens(tokens); },
                    [=](Json& b) { b["max_tokens"] = tokens; }, kInvalidArgument,
                    "sampling.max_tokens", "max_tokens", "context_length_exceeded"});
  }
  for (const int64_t most : {int64_t{0}, int64_t{-1}, std::numeric_limits<int64_t>::min()}) {
    rows.push_back({"max_cost_nanousd of nothing", [=](auto& r) { r.set_max_cost_nanousd(most); },
                    [=](Json& b) { b["max_cost_nanousd"] = most; }, kInvalidArgument,
                    "max_cost_nanousd", "max_cost_nanousd"});
  }
  for (const int32_t count : {21, -1, 4032, 4031}) {  // C7
    rows.push_back({"top_logprobs", [=](auto& r) { r.mutable_output()->set_top_logprobs(count); },
                    [=](Json& b) { b["top_logprobs"] = count; }, kInvalidArgument,
                    "output.top_logprobs", "top_logprobs"});
  }
  for (const int32_t id : {-1, 4032, kHighest}) {  // C8
    rows.push_back({"logit_bias of no token",
                    [=](auto& r) { (*r.mutable_sampling()->mutable_logit_bias())[id] = 1; },
                    [=](Json& b) { b["logit_bias"][absl::StrCat(id)] = 1; }, kInvalidArgument,
                    "sampling.logit_bias[", "logit_bias["});
  }
  rows.push_back({"logit_bias too strong",
                  [](auto& r) { (*r.mutable_sampling()->mutable_logit_bias())[5] = 101; },
                  [](Json& b) { b["logit_bias"]["5"] = 101; }, kInvalidArgument,
                  "sampling.logit_bias[5]", "logit_bias[5]"});
  rows.push_back({"logit_bias of 2,000 tokens",
                  [](auto& r) {
                    for (int i = 0; i < 2000; ++i) {
                      (*r.mutable_sampling()->mutable_logit_bias())[i] = 1;
                    }
                  },
                  [](Json& b) {
                    for (int i = 0; i < 2000; ++i) b["logit_bias"][absl::StrCat(i)] = 1;
                  },
                  kInvalidArgument, "sampling.logit_bias", "logit_bias"});
  rows.push_back({"five stops",  // C9
                  [](auto& r) {
                    for (int i = 0; i < 5; ++i) r.mutable_sampling()->add_stop("x");
                  },
                  [](Json& b) {
                    b["stop"] = {"x", "x", "x", "x", "x"};
                  },
                  kInvalidArgument, "sampling.stop", "stop"});
  for (const size_t bytes : {size_t{0}, size_t{1} << 20}) {
    rows.push_back({"a stop of no or too many bytes",
                    [=](auto& r) { r.mutable_sampling()->add_stop(std::string(bytes, 'x')); },
                    [=](Json& b) { b["stop"] = std::string(bytes, 'x'); }, kInvalidArgument,
                    "sampling.stop[0]", "stop[0]"});
  }
  rows.push_back({"a stop id of no token",
                  [](auto& r) { r.mutable_sampling()->add_stop_token_ids(-1); },
                  [](Json& b) { b["stop_token_ids"] = {-1}; }, kInvalidArgument,
                  "sampling.stop_token_ids[0]", "stop_token_ids[0]"});
  for (const char* name : {"gpt-4", "../../etc/passwd", "demo "}) {  // C11
    rows.push_back({"unknown model", [=](auto& r) { r.set_model(name); },
                    [=](Json& b) { b["model"] = name; }, kNotFound, "", "model",
                    "model_not_found"});
  }
  rows.push_back({"a model's name of 10 KB", [](auto& r) { r.set_model(std::string(10240, 'm')); },
                  [](Json& b) { b["model"] = std::string(10240, 'm'); }, kInvalidArgument, "model",
                  "model"});
  rows.push_back({"no messages", [](auto& r) { r.mutable_chat()->clear_messages(); },  // C13
                  [](Json& b) { b["messages"] = Json::array(); }, kInvalidArgument, "chat.messages",
                  "messages"});
  rows.push_back({"2,000 messages",
                  [](auto& r) {
                    for (int i = 0; i < 2000; ++i) {
                      *r.mutable_chat()->add_messages() = r.chat().messages(0);
                    }
                  },
                  [](Json& b) { b["messages"] = Json(2001, b["messages"][0]); }, kInvalidArgument,
                  "chat.messages", "messages"});
  rows.push_back(
      {"unknown role",
       [](auto& r) { r.mutable_chat()->mutable_messages(0)->set_role(static_cast<v1::Role>(9)); },
       [](Json& b) { b["messages"][0]["role"] = "wizard"; }, kInvalidArgument, "",
       "messages[0].role"});
  for (const char* blank : {"", " \t\r\n ", "\xEF\xBB\xBF", "\xE3\x80\x80"}) {  // D1
    rows.push_back({"nothing to answer", [=](auto& r) { SetContent(r, blank); },
                    [=](Json& b) { SetContent(b, blank); }, kInvalidArgument,
                    "chat.messages[0].content", "messages[0].content"});
  }
  rows.push_back({"a megabyte of one letter",  // D3: 32 bytes for each token of context at most
                  [](auto& r) { SetContent(r, std::string(1 << 20, 'A')); },
                  [](Json& b) { SetContent(b, std::string(1 << 20, 'A')); }, kInvalidArgument,
                  "chat", "messages"});
  for (const char* unit : {" ", "\n", "\xE4\xB8\xAD", "e\xCC\x81"}) {
    std::string text = "x";  // a body of as many line ends, escaped, is one of 1 MiB
    while (text.size() < (1 << 19)) text += unit;
    rows.push_back({"half a megabyte of one unit", [=](auto& r) { SetContent(r, text); },
                    [=](Json& b) { SetContent(b, text); }, kInvalidArgument, "chat", "messages"});
  }
  rows.push_back({"43,000 letters, which are within the limit of bytes alone",
                  [](auto& r) { SetContent(r, std::string(43'000, 'A')); },
                  [](Json& b) { SetContent(b, std::string(43'000, 'A')); }, kInvalidArgument,
                  "sampling.max_tokens", "max_tokens", "context_length_exceeded"});
  for (const char* special : {"<|system|>", "<|end|>", "<|endoftext|>", "file:///etc/passwd",
                              "http://169.254.169.254/latest"}) {  // C13, D4
    rows.push_back({"special tokens and addresses as text",
                    [=](auto& r) { SetContent(r, special); },
                    [=](Json& b) { SetContent(b, special); }, kOk});
  }
  for (const uint64_t seed : {uint64_t{0}, std::numeric_limits<uint64_t>::max()}) {  // C10
    rows.push_back({"any seed", [=](auto& r) { r.mutable_sampling()->set_seed(seed); },
                    [=](Json& b) { b["seed"] = seed; }, kOk});
  }
  return rows;
}

class BothDoorsTest : public ::testing::Test {
 protected:
  static HarnessOptions Options() {
    HarnessOptions options;
    options.limits.prompt_bytes_max = 65536;
    return options;
  }
  static Json GoodBody() {
    return {{"messages", {{{"role", "user"}, {"content", "Where is my order 48213?"}}}},
            {"max_tokens", 4},
            {"seed", 7},
            {"ignore_eos", true}};
  }
  HttpAnswer Post(const std::string& body, const std::string& path = "/v1/chat/completions") {
    return Ask(service_.http->port(), "POST", path, body);
  }
  void ExpectAllKeys(const HttpAnswer& answer) {
    const Json error = answer.error();
    for (const char* key : {"message", "type", "param", "code"}) {
      EXPECT_TRUE(error.contains(key)) << answer.body;
    }
    EXPECT_FALSE(error["message"].get<std::string>().empty());
    EXPECT_THAT(answer.body, Not(HasSubstr("checkpoint/")));
    EXPECT_EQ(answer.headers.at("x-request-id").size(), 32u);
  }
  // Refused as a whole over HTTP alone, where gRPC has no such input.
  void ExpectRefused(const std::string& body, const std::string& words) {
    const HttpAnswer answer = Post(body);
    EXPECT_EQ(answer.status, 400) << body.substr(0, 100);
    ExpectAllKeys(answer);
    EXPECT_THAT(answer.error()["message"].get<std::string>(), HasSubstr(words));
  }

  ServiceHarness service_{Options()};
};

TEST_F(BothDoorsTest, OneVerdictForEachInput) {
  constexpr std::pair<int, int> kStatuses[] = {
      {kOk, 200}, {kInvalidArgument, 400}, {kNotFound, 404}};
  for (const Row& row : Rows()) {
    SCOPED_TRACE(row.name);
    v1::GenerateRequest request = ServiceHarness::GoodRequest();
    row.grpc(request);
    const auto call = service_.Generate(request);
    const CallEnd& end = call->Wait();
    Json body = GoodBody();
    row.http(body);
    const HttpAnswer answer = Post(body.dump());
    EXPECT_EQ(end.code, row.code) << end.message;
    for (const auto& [code, status] : kStatuses) {
      if (code != row.code) continue;
      EXPECT_EQ(answer.status, status) << answer.body.substr(0, 300);
    }
    if (row.code == kOk) {
      EXPECT_EQ(answer.json()["choices"][0]["message"]["content"], call->text());
      continue;
    }
    ExpectAllKeys(answer);
    if (*row.grpc_field != '\0') {
      ASSERT_FALSE(end.violations.empty());
      EXPECT_THAT(end.violations[0].field, HasSubstr(row.grpc_field));
      // The same sentence, but for the field's name.
      EXPECT_THAT(answer.error()["message"].get<std::string>(),
                  HasSubstr(end.violations[0].description));
    }
    const Json param = answer.error()["param"];
    EXPECT_THAT(param.is_string() ? param.get<std::string>() : "", HasSubstr(row.http_param));
    const Json code = answer.error()["code"];
    EXPECT_EQ(code.is_string() ? code.get<std::string>() : "", row.http_code);
    service_.ExpectAtRest();
  }
  service_.ExpectUnharmed();
}

TEST_F(BothDoorsTest, C1C2BodiesThatAreNoJsonAsWeReadIt) {
  const std::string good = GoodBody().dump();
  std::string keys = "{";
  for (int i = 0; i < 100'000; ++i) keys += absl::StrCat("\"", i, "\":0,");
  for (const std::string& bad :
       {std::string(), std::string("{"), good.substr(0, good.size() - 1), good + "x", good + good,
        std::string("{\"a\":\"\xFF\"}"), std::string("{\"a\":\"\\ud800\"}"),
        std::string("{\"a\":\"\0\"}", 9), std::string("{\"n\":1,\"n\":1}"), std::string("[]"),
        std::string("\"x\""), std::string(101, '[') + std::string(101, ']'),
        std::string(1'000'000, '['), keys + "\"x\":0}", std::string("{\"n\":NaN}"),
        std::string("{\"n\":Infinity}"), std::string("{\"temperature\":1e400}")}) {
    ExpectRefused(bad, "the request's body");
  }
  service_.ExpectUnharmed();
}

TEST_F(BothDoorsTest, C3ValuesOfTheWrongType) {
  const std::pair<const char*, Json> kWrong[] = {{"n", "5"},
                                                 {"n", 1.5},
                                                 {"n", 2147483648},
                                                 {"max_tokens", 9007199254740993},
                                                 {"max_tokens", uint64_t{1} << 63},
                                                 {"temperature", "1"},
                                                 {"stream", 1},
                                                 {"seed", 1.5},
                                                 {"seed", "7"},
                                                 {"max_cost_nanousd", "5"},
                                                 {"max_cost_nanousd", 1.5},
                                                 {"max_cost_nanousd", uint64_t{1} << 63},
                                                 {"stop", 5},
                                                 {"logit_bias", {1}},
                                                 {"logprobs", 3},
                                                 {"model", 5},
                                                 {"messages", "hello"},
                                                 {"stream_options", true},
                                                 {"priority_class", "urgent"}};
  for (const auto& [name, value] : kWrong) {
    Json body = GoodBody();
    body[name] = value;
    ExpectRefused(body.dump(), absl::StrCat(name, " is "));
    EXPECT_EQ(Post(body.dump()).error()["param"], name);
  }
  Json body = GoodBody();
  body["seed"] = -1;  // C10: accepted, as its two's complement
  const Json negative = Post(body.dump()).json()["choices"];
  body["seed"] = std::numeric_limits<uint64_t>::max();
  EXPECT_EQ(Post(body.dump()).json()["choices"], negative);
  service_.ExpectUnharmed();
}

TEST_F(BothDoorsTest, C12B8FieldsThatAreRefusedAlwaysAndUnknownOnesWhereStrict) {
  for (const char* name : {"chat_template", "chat_template_kwargs", "kv_transfer_params",
                           "prompt_embeds", "cache_salt", "tenant", "tenant_id", "price", "cost",
                           "usage", "prompt_tokens", "completion_tokens"}) {
    Json body = GoodBody();
    body[name] = {{"a", 1}};
    ExpectRefused(body.dump(), "is never taken from a request");
    EXPECT_EQ(Post(body.dump()).error()["param"], name);
  }
  Json unknown = GoodBody();
  unknown["frobnicate"] = 1;
  EXPECT_EQ(Post(unknown.dump()).status, 200);
  HarnessOptions options;
  options.limits.strict = true;
  ServiceHarness strict(options);
  // Wherever they are.
  Json in_message = GoodBody(), in_part = GoodBody(), in_options = GoodBody();
  in_message["messages"][0]["frobnicate"] = 1;
  in_part["messages"][0]["content"] = {{{"type", "text"}, {"text", "hi"}, {"frobnicate", 1}}};
  in_options["stream_options"] = {{"include_usage", nullptr}, {"frobnicate", true}};
  const std::pair<Json, const char*> kUnknown[] = {{unknown, "frobnicate"},
                                                   {in_message, "messages[0].frobnicate"},
                                                   {in_part, "messages[0].content[0].frobnicate"},
                                                   {in_options, "stream_options.frobnicate"}};
  for (const auto& [body, param] : kUnknown) {
    EXPECT_EQ(Post(body.dump()).status, 200) << param;
    const HttpAnswer refused = Ask(strict.http->port(), "POST", kChat, body.dump());
    EXPECT_EQ(refused.status, 400) << param;
    EXPECT_EQ(refused.error()["param"], param);
  }
  Json known = GoodBody();
  known["stream_options"] = {{"include_usage", true}, {"include_obfuscation", false}};
  known["messages"][0]["content"] = {{{"type", "text"}, {"text", "hi"}}};
  EXPECT_EQ(Ask(strict.http->port(), "POST", kChat, known.dump()).status, 200);
  strict.ExpectUnharmed();
  service_.ExpectUnharmed();
}

TEST_F(BothDoorsTest, ALimitOfCostNeedsARateCard) {
  HarnessOptions options;
  options.engine.rate_card = {};
  ServiceHarness unpriced(options);
  Json body = GoodBody();
  body["max_cost_nanousd"] = 1000;
  const HttpAnswer answer = Ask(unpriced.http->port(), "POST", kChat, body.dump());
  EXPECT_EQ(answer.status, 400);
  EXPECT_EQ(answer.error()["code"], "no_rate_card");
  ExpectAllKeys(answer);
  unpriced.ExpectUnharmed();
}

TEST_F(BothDoorsTest, WhatThisModelCannotDoIsRefusedByName) {
  const std::pair<const char*, Json> kUnsupported[] = {
      {"tools", {{{"type", "function"}}}},   {"functions", {{{"name", "f"}}}},
      {"tool_choice", "required"},           {"response_format", {{"type", "json_object"}}},
      {"audio", {{"voice", "x"}}},           {"modalities", {"text", "audio"}},
      {"web_search_options", Json::object()}};
  for (const auto& [name, value] : kUnsupported) {
    Json body = GoodBody();
    body[name] = value;
    ExpectRefused(body.dump(), absl::StrCat(name, " is not supported"));
  }
  for (const Json& content :
       {Json{{{"type", "image_url"}, {"image_url", {{"url", "http://169.254.169.254/"}}}}},
        Json{{{"type", "input_audio"}}}, Json{{{"type", "file"}, {"file", "file:///etc/passwd"}}},
        Json(nullptr), Json(5), Json{{"text"}}}) {
    Json body = GoodBody();
    body["messages"][0]["content"] = content;
    ExpectRefused(body.dump(), "messages[0].content");
  }
  service_.ExpectUnharmed();
}

TEST_F(BothDoorsTest, D7TokenIdsAsPrompts) {
  for (const Json& bad : {Json{300, -1}, Json{4032}, Json{2147483648}, Json{"a", "b"}, Json{1.5},
                          Json::array(), Json(5)}) {
    const Json body = {{"prompt", bad}, {"max_tokens", 4}};
    const HttpAnswer answer = Post(body.dump(), "/v1/completions");
    EXPECT_EQ(answer.status, 400) << bad;
    EXPECT_TRUE(absl::StartsWith(answer.error()["param"].get<std::string>(), "prompt")) << bad;
  }
  EXPECT_EQ(Post(R"({"prompt":"x","best_of":2})", "/v1/completions").status, 400);
  EXPECT_EQ(Post(R"({"prompt":"x","echo":true})", "/v1/completions").status, 400);
  EXPECT_EQ(Post(R"({"prompt":"x","logprobs":21})", "/v1/completions").status, 400);
  EXPECT_EQ(Post(R"({"max_tokens":4})", "/v1/completions").error()["param"], "prompt");
  service_.ExpectUnharmed();
}

TEST_F(BothDoorsTest, D6ControlCharactersStayOutOfTheLog) {
  Json body = GoodBody();
  const std::string nasty = "a\r\nFAKE {\"event\":\"x\"}\x1b[31m\x07";
  SetContent(body, nasty);
  body["user"] = nasty;
  EXPECT_EQ(Post(body.dump()).status, 200);
  body["model"] = nasty;
  EXPECT_EQ(Post(body.dump()).status, 404);
  service_.ExpectAtRest();
  EXPECT_THAT(service_.log(), Not(HasSubstr("FAKE")));
  EXPECT_THAT(service_.log(), Not(HasSubstr("\x1b")));
}

TEST_F(BothDoorsTest, TokenizeAndDetokenizeKeepTheSameRules) {
  const Json tokens = Post(R"({"prompt":"caf\u00e9"})", "/tokenize").json()["tokens"];
  const Json ids = {{"tokens", tokens}};
  EXPECT_EQ(Post(ids.dump(), "/detokenize").json()["prompt"], "caf\xC3\xA9");
  const Json chat = {{"messages", GoodBody()["messages"]}};
  EXPECT_EQ(Post(chat.dump(), "/tokenize").json()["count"],
            Post(GoodBody().dump()).json()["usage"]["prompt_tokens"]);
  EXPECT_EQ(Post(R"({})", "/tokenize").status, 400);
  EXPECT_EQ(Post(R"({"prompt":"x","model":"other"})", "/tokenize").status, 404);
  EXPECT_EQ(Post(R"({"tokens":[-5]})", "/detokenize").error()["param"], "tokens[0]");
  EXPECT_EQ(Post(R"({"tokens":"x"})", "/detokenize").status, 400);
  service_.ExpectUnharmed();
}

}  // namespace
}  // namespace tuppence
