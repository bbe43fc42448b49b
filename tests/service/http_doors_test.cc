// What the HTTP port itself takes and refuses: sections A and B of our list, and the pages beside
// the completions.
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "service/http_routes.h"
#include "tests/service/http_client.h"
#include "tests/service/service_harness.h"
#include "tests/service/usage_files.h"

namespace tuppence {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

constexpr char kGood[] =
    R"({"messages":[{"role":"user","content":"Where is my order 48213?"}],"max_tokens":4})";

std::string Post(const std::string& fields, const std::string& body) {
  return absl::StrCat("POST ", kChat,
                      " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n", fields,
                      "\r\n", body);
}

class HttpDoorsTest : public ::testing::Test {
 protected:
  // The first answer to bytes that no client would send; the connection may go on or not.
  HttpAnswer Raw(const std::string& bytes) { return Raw(service_, bytes); }
  static HttpAnswer Raw(const ServiceHarness& service, const std::string& bytes) {
    RawConnection connection(service.http->port());
    connection.Write(bytes);
    std::string received;
    while (true) {
      const HttpAnswer answer = ParseAnswer(received);
      if (answer.status != 0 && received.find("\r\n\r\n{") != std::string::npos) return answer;
      const std::string more = connection.ReadSome();
      if (more.empty()) return answer;
      received += more;
    }
  }
  // Refused like any request: with all that a client looks for, counted, and once in the log.
  void ExpectRefused(const std::string& bytes, int status) {
    const HttpAnswer answer = Raw(bytes);
    ASSERT_EQ(answer.status, status) << answer.body;
    for (const char* key : {"message", "type", "param", "code"}) {
      EXPECT_TRUE(answer.error().contains(key)) << answer.body;
    }
    const std::string id = answer.headers.at("x-request-id");
    EXPECT_EQ(id.size(), 32u);
    EXPECT_EQ(answer.headers.at("tuppence-request-id"), id);
    const std::vector<std::string> log = absl::StrSplit(service_.log(), id);
    EXPECT_EQ(log.size(), 2u) << service_.log();
  }
  int64_t Refused() const { return service_.counters.refused().at("OTHER"); }
  HttpAnswer Get(const std::string& path) { return Ask(service_.http->port(), "GET", path); }

  ServiceHarness service_;
};

TEST_F(HttpDoorsTest, PagesBesideTheCompletions) {
  EXPECT_EQ(Get("/health").json()["status"], "ok");
  EXPECT_FALSE(Get("/version").json()["version"].get<std::string>().empty());
  for (const char* path : {"/health", "/version"}) {
    EXPECT_EQ(Get(path).headers.at("x-request-id").size(), 32u);
    EXPECT_EQ(Ask(service_.http->port(), "GET", path, std::nullopt, {{"X-Request-Id", "mine"}})
                  .headers.at("x-request-id"),
              "mine");
  }
  EXPECT_THAT(service_.log(), Not(HasSubstr("\"Other\""))) << "probes are not logged";
  const Json models = Get("/v1/models").json();
  EXPECT_EQ(models["object"], "list");
  EXPECT_EQ(models["data"][0]["id"], "demo");
  EXPECT_EQ(models["data"][0]["object"], "model");
  EXPECT_TRUE(models["data"][0]["created"].is_number());
  EXPECT_EQ(Get("/v1/models/demo").json(), models["data"][0]);
  EXPECT_EQ(Get("/v1/models/other").status, 404);
  EXPECT_EQ(Get("/ping").json(), Get("/health").json());
}

TEST_F(HttpDoorsTest, AliasesAreModelsWithTheServedOneAsParent) {
  service_.model.aliases = {"gpt-4o-mini", "phi"};
  const Json models = Get("/v1/models").json()["data"];
  ASSERT_EQ(models.size(), 3u);
  EXPECT_FALSE(models[0].contains("parent"));
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(models[i + 1]["id"], service_.model.aliases[i]);
    EXPECT_EQ(models[i + 1]["parent"], "demo");
    EXPECT_EQ(models[i + 1]["created"], models[0]["created"]);
    EXPECT_EQ(Get("/v1/models/" + service_.model.aliases[i]).json(), models[i + 1]);
  }
}

TEST_F(HttpDoorsTest, HeadIsGetWithoutTheBody) {
  for (const char* path : {"/health", "/ping", "/version", "/v1/models", "/v1/models/demo"}) {
    RawConnection connection(service_.http->port());
    connection.Write(absl::StrCat("HEAD ", path, " HTTP/1.1\r\nHost: x\r\n\r\n", "GET ", path,
                                  " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    const std::string answers = connection.ReadAll();
    const HttpAnswer head = ParseAnswer(answers);
    EXPECT_EQ(head.status, 200) << path;
    EXPECT_EQ(head.headers.at("content-length"), absl::StrCat(Get(path).body.size()));
    EXPECT_THAT(answers, HasSubstr("\r\n\r\nHTTP/1.1 200")) << "no byte between the two";
  }
  EXPECT_EQ(Ask(service_.http->port(), "HEAD", kChat).status, 405);
}

TEST_F(HttpDoorsTest, A1GarbageIsAnsweredOrClosed) {
  for (const std::string& bytes :
       {std::string(4096, '\xAA'), std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03", 11),
        std::string("hello\r\n\r\n"), std::string("GET /health HTTP/9.9\r\n\r\n"),
        std::string("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")}) {
    EXPECT_THAT(Raw(bytes).status, AnyOf(0, 400)) << bytes.substr(0, 20);
  }
  service_.ExpectUnharmed();
}

TEST_F(HttpDoorsTest, A2HeadersOver16KiBAre431) {
  ExpectRefused(Post(absl::StrCat("X-Big: ", std::string(20000, 'm'), "\r\n"), ""), 431);
  EXPECT_EQ(Refused(), 1);
  service_.ExpectUnharmed();
}

TEST_F(HttpDoorsTest, A4BodiesOver2MiBAre413) {
  ExpectRefused(Post(absl::StrCat("Content-Length: ", 3 << 20, "\r\n"), "{"), 413);
  ExpectRefused(Post("Content-Length: 99999999999999999999\r\n", "{"), 400);
  EXPECT_EQ(Refused(), 2);
  service_.ExpectUnharmed();
}

TEST_F(HttpDoorsTest, A5ChunksAreCountedAndAdded) {
  std::string ones;
  for (int i = 0; i < 70'000; ++i) ones += "1\r\n \r\n";
  ExpectRefused(Post("Transfer-Encoding: chunked\r\n", ones), 413);
  std::string megabytes;
  for (int i = 0; i < 3; ++i) megabytes += "100000\r\n" + std::string(1 << 20, ' ') + "\r\n";
  EXPECT_EQ(Raw(Post("Transfer-Encoding: chunked\r\n", megabytes)).status, 413);
  const std::string good =
      absl::StrCat(absl::Hex(sizeof(kGood) - 1), "\r\n", kGood, "\r\n0\r\n\r\n");
  EXPECT_EQ(Raw(Post("Transfer-Encoding: chunked\r\n", good)).status, 200);
  ExpectRefused(Post("Transfer-Encoding: chunked\r\n", "zz\r\n"), 400);
  service_.ExpectUnharmed();
}

// What follows such a header is never taken for a request: whoever stands between may have taken
// it for the body.
TEST_F(HttpDoorsTest, A6LengthsThatContradictEachOtherAre400AndTheClose) {
  const std::string kSmuggled = "GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n";
  for (const std::string& fields :
       {std::string("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        std::string("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
        std::string("Content-Length: 5\r\nContent-Length: 6\r\n"),
        std::string("Content-Length: 0\r\nContent-Length: 0\r\n"),
        std::string("Content-Length: 0, 0\r\n"), std::string("Content-Length: -1\r\n"),
        std::string("Content-Length: x\r\n"), std::string("Transfer-Encoding: gzip\r\n"),
        std::string("Transfer-Encoding: chunked, identity\r\n"),
        std::string("Transfer-Encoding: gzip, chunked\r\n"),
        std::string("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n")}) {
    SCOPED_TRACE(fields);
    RawConnection connection(service_.http->port());
    connection.Write(Post(fields, kSmuggled));
    const std::string answers = connection.ReadAll();  // until it is closed
    EXPECT_EQ(ParseAnswer(answers).status, 400) << answers;
    EXPECT_EQ(ParseAnswer(answers).headers.at("connection"), "close");
    EXPECT_EQ(answers.find("HTTP/1.1 ", 1), std::string::npos) << answers;
  }
  service_.ExpectUnharmed();
}

TEST_F(HttpDoorsTest, A7A15OnlyPlainJsonIsRead) {
  const auto with = [&](HttpClient::Headers headers) {
    return Ask(service_.http->port(), "POST", kChat, kGood, headers).status;
  };
  EXPECT_EQ(with({{"Content-Encoding", "gzip"}}), 415);
  EXPECT_EQ(with({{"Content-Type", "text/plain"}}), 415);
  EXPECT_EQ(with({{"Content-Type", "application/x-www-form-urlencoded"}}), 415);
  EXPECT_EQ(with({{"Content-Type", "application/json; charset=utf-8"}}), 200);
  EXPECT_EQ(Raw(absl::StrCat("POST ", kChat, " HTTP/1.1\r\nHost: x\r\n\r\n")).status, 415);
  service_.ExpectUnharmed();
}

TEST_F(HttpDoorsTest, A8ASlowBodyIs408AndASlowHeaderToo) {
  HarnessOptions options;
  options.http.limits.header_ns = options.http.limits.body_ns = 200'000'000;
  ServiceHarness hasty(options);
  for (const std::string& begun : {std::string("POST / HT"), Post("Content-Length: 9\r\n", "{")}) {
    RawConnection connection(hasty.http->port());
    connection.Write(begun);
    const HttpAnswer answer = ParseAnswer(connection.ReadAll());
    EXPECT_EQ(answer.status, 408);
    EXPECT_EQ(answer.headers.at("connection"), "close");
    EXPECT_THAT(hasty.log(), HasSubstr(answer.headers.at("x-request-id")));
  }
  EXPECT_EQ(hasty.counters.refused().at("OTHER"), 2);
  hasty.ExpectUnharmed();
}

TEST_F(HttpDoorsTest, A14UnknownPathsAre404AndOtherVerbs405) {
  EXPECT_EQ(Get("/").status, 404);
  EXPECT_EQ(Get("/v1").status, 404);
  for (const HttpRoute& route : HttpRoutes::Table()) {
    const std::string path = absl::StrReplaceAll(route.path, {{"*", "x"}});
    for (const char* verb : {"PUT", "PATCH", "OPTIONS", "FROB"}) {
      const HttpAnswer answer = Ask(service_.http->port(), verb, path);
      EXPECT_EQ(answer.status, 405) << verb << " " << path;
      EXPECT_THAT(answer.headers.at("allow"), HasSubstr(route.verb));
    }
  }
  service_.ExpectUnharmed();
}

// Also where a key would be needed, for it is the check of that which a trick is to get around.
TEST_F(HttpDoorsTest, B5PathTricksNeverReachARoute) {
  HarnessOptions options;
  options.keys = EmptyFolder() + "/keys.json";
  ASSERT_TRUE(MakeApiKey(options.keys, "shop", "").ok());
  ServiceHarness keyed(options);
  for (const char* target :
       {"//v1/models", "/v1//models", "/v1/%6dodels", "/v1/%2e%2e/v1/models", "/v1/../v1/models",
        "http://localhost/v1/models", "/v1/models/%64emo", "/v1/models/../models", "v1/models",
        "/V1/models", "/v1/models;x", "*", "/v1/files/../content", "/v1/files//content",
        "/v1/files/a/b/content", "/v1/files/%2e/content", "/v1/files/a/content/", "/v1/batches/"}) {
    const std::string request =
        absl::StrCat("GET ", target, " HTTP/1.1\r\nHost: localhost\r\n\r\n");
    EXPECT_THAT(Raw(request).status, AnyOf(400, 404)) << target;
    EXPECT_THAT(Raw(keyed, request).status, AnyOf(400, 401)) << target;
  }
  for (const char* host :
       {"Host: a/v1/models?\r\n", "Host: a\r\nHost: b\r\n", "Host: a b\r\n", ""}) {
    const std::string request = absl::StrCat("GET /v1/models HTTP/1.1\r\n", host, "\r\n");
    EXPECT_EQ(Raw(request).status, 400) << host;
    EXPECT_EQ(Raw(keyed, request).status, 400) << host;
  }
  service_.ExpectUnharmed();
}

TEST_F(HttpDoorsTest, ExpectationIsMetAndHttp10IsAnsweredAndClosed) {
  RawConnection expecting(service_.http->port());
  expecting.Write(Post(absl::StrCat("Expect: 100-continue\r\nContent-Length: ", sizeof(kGood) - 1,
                                    "\r\nConnection: close\r\n"),
                       ""));
  EXPECT_THAT(expecting.ReadSome(), HasSubstr("HTTP/1.1 100 Continue"));
  expecting.Write(kGood);
  EXPECT_THAT(expecting.ReadAll(), HasSubstr("HTTP/1.1 200"));
  RawConnection old(service_.http->port());
  old.Write("GET /health HTTP/1.0\r\n\r\n");
  EXPECT_THAT(old.ReadAll(), HasSubstr("\"status\":\"ok\""));
}

TEST(HttpSilenceTest, A11APeerThatIsGoneWithoutAWordIsClosedAndItsPlaceFreed) {
  HarnessOptions options;
  options.http.keepalive_ns = options.http.keepalive_timeout_ns = 1'000'000'000;
  options.http.limits.stall_ns = 1'000'000'000;
  ServiceHarness service(options);
  for (const bool stream : {true, false}) {  // with something to send, and with nothing
    service.executor.step_us = 20'000;       // the answer would take half a minute
    const int64_t tokens_before = service.engine.Snapshot().completion_tokens;
    HttpClient client(service.http->port());
    Json body = Json::parse(kGood);
    body["max_tokens"] = 1500;
    body["ignore_eos"] = true;
    body["stream"] = stream;
    client.Send("POST", kChat, body.dump());
    for (int i = 0; i < 2000 && service.engine.Snapshot().running == 0; ++i) usleep(1000);
    client.connection().GoSilent();
    for (int i = 0; i < 8000 && service.engine.Snapshot().running > 0; ++i) usleep(1000);
    EXPECT_EQ(service.engine.Snapshot().running, 0) << stream;
    EXPECT_LT(service.engine.Snapshot().completion_tokens, tokens_before + 1000) << stream;
    service.executor.step_us = 0;
    service.ExpectUnharmed();
  }
}

TEST_F(HttpDoorsTest, PortInUseIsNamedWithTheWayOut) {
  HttpServerOptions options;
  options.port = service_.http->port();
  const auto second = HttpServer::Start(options, service_.parts, [] { return Readiness(); });
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("choose another --http-port"));
}

}  // namespace
}  // namespace tuppence
