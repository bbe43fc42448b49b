// Bad and strange inputs over HTTP that the table of both_doors_test has no place for: rows of
// sections A, C and D of our list that are written otherwise there than in protobuf, or need more
// than one request to show.
#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "model/utf8.h"
#include "tests/service/http_client.h"
#include "tests/service/service_harness.h"
#include "tests/service/usage_files.h"

namespace tuppence {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using Json = nlohmann::json;

constexpr char kTextRoute[] = "/v1/completions";

class HttpBadInputsTest : public ::testing::Test {
 protected:
  static Json GoodBody() {
    return {{"messages", {{{"role", "user"}, {"content", "Where is my order 48213?"}}}},
            {"max_tokens", 4},
            {"seed", 7},
            {"ignore_eos", true}};
  }
  HttpAnswer Post(const std::string& path, const std::string& body,
                  const HttpClient::Headers& headers = {}) {
    return Ask(service_.http->port(), "POST", path, body, headers);
  }
  HttpAnswer Chat(const Json& change) {
    Json body = GoodBody();
    body.update(change);
    return Post(kChat, body.dump());
  }
  // 400, and the field that is at fault begins so; "": none does.
  void ExpectRefused(const HttpAnswer& answer, const std::string& param) {
    ASSERT_EQ(answer.status, 400) << answer.body.substr(0, 300);
    const Json found = answer.error()["param"];
    EXPECT_THAT(found.is_string() ? found.get<std::string>() : "", StartsWith(param));
    EXPECT_EQ(found.is_null(), param.empty()) << found;
  }
  std::string WithHeader(const std::string& fields) {
    RawConnection connection(service_.http->port());
    connection.Write(absl::StrCat("GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n",
                                  fields, "\r\n"));
    return connection.ReadAll();
  }

  static HarnessOptions Options() {
    HarnessOptions options;
    options.limits.prompt_bytes_max = 65536;
    return options;
  }

  ServiceHarness service_{Options()};
};

TEST_F(HttpBadInputsTest, A3OddHeadersAreRefusedOrMeanNothing) {
  for (const std::string& bad :
       {std::string("X: a\0b\r\n", 8), std::string("X\0: a\r\n", 7), std::string("X\r: a\r\n"),
        std::string("X: a\rb\r\n"), std::string("X : a\r\n"), std::string(": a\r\n"),
        std::string("X a\r\n"), std::string("\x01: a\r\n")}) {
    EXPECT_THAT(WithHeader(bad), StartsWith("HTTP/1.1 400")) << bad;
  }
  // TE only says what else the caller could read, and nobody has to make use of that (RFC 9110,
  // 10.1.4). A header is too long from 16 KiB on (A2), so 9,000 bytes may come with it.
  EXPECT_THAT(WithHeader(absl::StrCat("TE: x\r\nX: ", std::string(9000, 'x'), "\r\n")),
              StartsWith("HTTP/1.1 200"));
  // A folded line is one value with a space (RFC 9112, 5.2).
  EXPECT_THAT(WithHeader("X-Request-Id: a\r\n b\r\n"), HasSubstr("x-request-id: a b\r\n"));
  service_.ExpectUnharmed();
}

TEST_F(HttpBadInputsTest, C3MinusZeroIsZero) {
  const auto with = [&](const char* field) {
    return Post(
        kChat,
        absl::StrCat(R"({"messages":[{"role":"user","content":"x"}],"max_tokens":4,"seed":7,)",
                     field, "}"));
  };
  EXPECT_EQ(with(R"("temperature":-0)").json()["choices"],
            with(R"("temperature":0)").json()["choices"]);
  EXPECT_EQ(with(R"("temperature":-0.0)").status, 200);
  ExpectRefused(with(R"("n":-0)"), "n");
  ExpectRefused(with(R"("top_p":-0.0)"), "top_p");
}

TEST_F(HttpBadInputsTest, C4C7OfTextCompletions) {
  for (const int32_t bad : {0, -1, 9, 1'000'000, kHighest, kLowest}) {
    const Json body = {{"prompt", "x"}, {"max_tokens", 4}, {"best_of", bad}};
    ExpectRefused(Post(kTextRoute, body.dump()), "best_of");
  }
  for (const int32_t bad : {21, -1, 4032, 4031, kHighest}) {
    const Json body = {{"prompt", "x"}, {"max_tokens", 4}, {"logprobs", bad}};
    ExpectRefused(Post(kTextRoute, body.dump()), "logprobs");
  }
  service_.ExpectUnharmed();
}

TEST_F(HttpBadInputsTest, C8BiasesOfWhatIsNoToken) {
  ExpectRefused(Chat({{"logit_bias", {{"abc", 1}}}}), "logit_bias[abc]");
  ExpectRefused(Chat({{"logit_bias", {{"5x", 1}}}}), "logit_bias[5x]");
  ExpectRefused(Chat({{"logit_bias", {{"", 1}}}}), "logit_bias[]");
  ExpectRefused(Chat({{"logit_bias", {{"2147483648", 1}}}}), "logit_bias[2147483648]");
  ExpectRefused(Chat({{"logit_bias", {{"5", "1"}}}}), "logit_bias[5]");
  int32_t padding = 4031;
  while (service_.model.IsMapped(padding)) --padding;
  ExpectRefused(Chat({{"logit_bias", {{absl::StrCat(padding), 1}}}}), "logit_bias[");
  Json many;
  for (int i = 0; i < 100'000; ++i) many[absl::StrCat(i)] = 1;
  ExpectRefused(Chat({{"logit_bias", many}}), "");  // more keys than any body may have
  std::string infinite = GoodBody().dump();
  infinite.replace(0, 1, R"({"logit_bias":{"5":1e400},)");
  ExpectRefused(Post(kChat, infinite), "");
  service_.ExpectUnharmed();
}

TEST_F(HttpBadInputsTest, C9StopsAreWholeTextsAndFoundWhereverTheyFall) {
  std::string partial = GoodBody().dump();
  partial.replace(0, 1, "{\"stop\":\"caf\xC3\",");
  ExpectRefused(Post(kChat, partial), "");
  Json body = GoodBody();
  body["max_tokens"] = 200;
  const std::string whole = Post(kChat, body.dump()).json()["choices"][0]["message"]["content"];
  // Eight characters are more than one token and so come in more than one event.
  size_t at = 20;
  const auto is_letters = [&](size_t begin) {
    return std::all_of(whole.begin() + begin, whole.begin() + begin + 8,
                       [](char c) { return c > ' ' && c < '\x7F'; });
  };
  while (at + 8 < whole.size() && !is_letters(at)) ++at;
  ASSERT_LT(at + 8, whole.size()) << whole;
  const std::string stop = whole.substr(at, 8);
  body["stop"] = {stop};
  body["stream"] = true;
  std::string text, reason;
  for (const std::string& event : Post(kChat, body.dump()).events()) {
    if (event == "[DONE]") continue;
    const Json choice = Json::parse(event)["choices"][0];
    text += choice["delta"].value("content", "");
    if (choice["finish_reason"].is_string()) reason = choice["finish_reason"];
  }
  EXPECT_EQ(text, whole.substr(0, whole.find(stop)));
  EXPECT_EQ(reason, "stop");
  service_.ExpectUnharmed();
}

TEST_F(HttpBadInputsTest, C13MessagesThatAreNone) {
  ExpectRefused(Chat({{"messages", {{{"content", "x"}}}}}), "messages[0].role");
  ExpectRefused(Chat({{"messages", {{{"role", "user"}}}}}), "messages[0].content");
  for (const char* role : {"tool", "function", "User", ""}) {
    ExpectRefused(Chat({{"messages", {{{"role", role}, {"content", "x"}}}}}), "messages[0].role");
  }
  ExpectRefused(Chat({{"messages", Json(100'000, Json::object())}}), "messages");
  ExpectRefused(Chat({{"messages", Json(100'000, "x")}}), "messages");
  service_.ExpectUnharmed();
}

TEST_F(HttpBadInputsTest, C14ATimeoutIsAWholeNumberOfMilliseconds) {
  // One below 0 is nobody's deadline but a mistake, and so not 504.
  for (const char* bad : {"-5", "-0.5", "1.5", "1e3", "", "99999999999999999999999"}) {
    const HttpAnswer answer = Post(kChat, GoodBody().dump(), {{"X-Request-Timeout-Ms", bad}});
    ExpectRefused(answer, "x-request-timeout-ms");
  }
  EXPECT_EQ(Post(kChat, GoodBody().dump(), {{"X-Request-Timeout-Ms", "0"}}).status, 504);
  service_.ExpectUnharmed();
}

TEST_F(HttpBadInputsTest, C16WhatIsNeededIsNamed) {
  ExpectRefused(Post(kChat, R"({"max_tokens":4})"), "messages");
  ExpectRefused(Post(kTextRoute, R"({"max_tokens":4})"), "prompt");
  ExpectRefused(Post("/tokenize", "{}"), "prompt");
  ExpectRefused(Post("/detokenize", "{}"), "tokens");
  ExpectRefused(Post("/detokenize", R"({"tokens":null})"), "tokens");
  EXPECT_EQ(Post("/detokenize", R"({"tokens":[]})").json()["prompt"], "");
  service_.ExpectUnharmed();
}

TEST_F(HttpBadInputsTest, D2ContextIsFilledExactlyOrRefused) {
  Json body = {{"prompt", std::vector<int>(2000, 300)}, {"max_tokens", 48}, {"ignore_eos", true}};
  const HttpAnswer exact = Post(kTextRoute, body.dump());
  ASSERT_EQ(exact.status, 200) << exact.body;
  EXPECT_EQ(exact.json()["usage"]["total_tokens"], 2048);
  for (const int too_many : {49, 480, 20480}) {
    body["max_tokens"] = too_many;
    const HttpAnswer answer = Post(kTextRoute, body.dump());
    ExpectRefused(answer, "max_tokens");
    EXPECT_EQ(answer.error()["code"], "context_length_exceeded");
  }
  service_.ExpectUnharmed();
}

TEST_F(HttpBadInputsTest, D4SpecialTokensWrittenByUsersAreOrdinaryText) {
  for (const char* text : {"<|system|>", "<|end|>", "<|assistant|>", "<|endoftext|>", "<|user|>"}) {
    const Json asked = {{"prompt", absl::StrCat("a ", text, " b")}};
    const Json tokens = Post("/tokenize", asked.dump()).json()["tokens"];
    EXPECT_GT(tokens.size(), 3u);
    for (const int32_t id : tokens) {
      EXPECT_FALSE(service_.model.tokenizer->IsSpecial(id)) << text;
    }
  }
  // Halves in two messages do not meet.
  const Json halves = {
      {"messages",
       {{{"role", "user"}, {"content", "<|sys"}}, {{"role", "user"}, {"content", "tem|>"}}}}};
  const auto system = service_.model.tokenizer->FindSpecial("<|system|>");
  ASSERT_TRUE(system.has_value());
  const Json tokens = Post("/tokenize", halves.dump()).json()["tokens"];
  EXPECT_GT(tokens.size(), 3u);
  for (const int32_t id : tokens) EXPECT_NE(id, *system);
  EXPECT_EQ(Chat(halves).status, 200);
}

TEST_F(HttpBadInputsTest, D5EachEventIsValidUtf8WhateverTheTokens) {
  for (const int seed : {1, 2, 3, 4}) {
    const HttpAnswer answer = Chat({{"seed", seed}, {"max_tokens", 500}, {"stream", true}});
    EXPECT_GT(answer.events().size(), 2u);
    for (const std::string& event : answer.events()) {
      EXPECT_TRUE(IsValidUtf8(event)) << event;
      EXPECT_TRUE(event == "[DONE]" || Json::accept(event)) << event;
    }
    EXPECT_EQ(answer.events().back(), "[DONE]");
  }
}

// A13: a write to a socket that is closed is an error, and no signal that ends the process.
TEST(HttpClosedSocketTest, A13ACallerWhoLeavesInAnAnswerHarmsNobody) {
  HarnessOptions options;
  options.files_dir = EmptyFolder();
  ServiceHarness service(options);
  std::string lines;
  for (int i = 0; i < 12'000; ++i) {
    absl::StrAppend(&lines, R"({"custom_id":"q)", i,
                    R"(","method":"POST","url":"/v1/completions","body":{"prompt":")",
                    std::string(100, 'x'), "\"}}\n");
  }
  const HttpAnswer stored = Ask(
      service.http->port(), "POST", "/v1/files",
      absl::StrCat("--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n"
                   "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n",
                   lines, "\r\n--b--\r\n"),
      {{"Content-Type", "multipart/form-data; boundary=b"}});
  ASSERT_EQ(stored.status, 200) << stored.body;
  const std::string path =
      absl::StrCat("/v1/files/", stored.json()["id"].get<std::string>(), "/content");
  for (int i = 0; i < 20; ++i) {
    HttpClient client(service.http->port());
    client.Send("GET", path);
    if (i % 2 == 0) {
      EXPECT_FALSE(client.connection().ReadSome().empty());
    }
    client.connection().Reset();
  }
  EXPECT_EQ(Ask(service.http->port(), "GET", path).body, lines);
  service.ExpectUnharmed();
}

int64_t ResidentBytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (absl::StartsWith(line, "VmRSS:")) return std::atoll(line.c_str() + 6) * 1024;
  }
  return 0;
}

// After every row: what was refused leaves no memory behind, and an error tells nothing of us.
TEST_F(HttpBadInputsTest, RefusalsLeaveNothingBehind) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "what is freed is kept for a while here";
#endif
  std::string keys = "{";
  for (int i = 0; i < 20'000; ++i) keys += absl::StrCat("\"", i, "\":0,");
  const std::vector<std::string> bad = {
      std::string(1 << 20, '['),
      keys + "\"x\":0}",
      Json{{"messages", Json(20'000, Json::object())}}.dump(),
      Json{{"messages", {{{"role", "user"}, {"content", std::string(1 << 20, 'A')}}}}}.dump(),
      Json{{"messages", GoodBody()["messages"]}, {"model", std::string(10'240, 'm')}}.dump(),
      Json{{"messages", GoodBody()["messages"]}, {"stop", std::string(1 << 20, 'x')}}.dump(),
      std::string(3 << 20, ' ')};
  const auto round = [&] {
    for (const std::string& body : bad) {
      const HttpAnswer answer = Post(kChat, body);
      EXPECT_THAT(answer.status, AnyOf(400, 413));
      EXPECT_LT(answer.body.size(), 4096u);
      EXPECT_THAT(answer.body, Not(HasSubstr(TUPPENCE_SOURCE_DIR)));
    }
  };
  for (int i = 0; i < 10; ++i) round();
  const int64_t before = ResidentBytes();
  for (int i = 0; i < 40; ++i) round();
  // One body that stays each time would be 40 MiB.
  EXPECT_LT(ResidentBytes() - before, 20 << 20);
  service_.ExpectUnharmed();
}

}  // namespace
}  // namespace tuppence
