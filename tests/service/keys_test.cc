// Keys and limits of a minute (section B and H2 of our list), over both doors: who shows a valid
// key is its tenant; whoever does not reaches nothing.
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "scheduler/refusal.h"
#include "service/http_routes.h"
#include "tests/service/http_client.h"
#include "tests/service/service_harness.h"
#include "tests/support/fake_clock.h"

namespace tuppence {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;
using Json = nlohmann::json;

constexpr char kGoodChat[] =
    R"({"messages":[{"role":"user","content":"Where is my order?"}],"max_tokens":4})";

// Files of one test, which go with it.
class Folder {
 public:
  Folder() : path_(std::filesystem::temp_directory_path() / absl::StrCat("keys_test_", getpid())) {
    std::filesystem::create_directory(path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string At(const char* name) const { return path_ / name; }

 private:
  const std::filesystem::path path_;
};

std::string ReadAll(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

class KeysTest : public ::testing::Test {
 protected:
  std::string Make(const std::string& tenant, const std::string& expires = "") {
    const auto key = MakeApiKey(folder_.At("keys.json"), tenant, expires);
    EXPECT_TRUE(key.ok()) << key.status();
    return key.value_or("");
  }
  void Serve(const std::string& tenants = "") {
    HarnessOptions options;
    options.keys = folder_.At("keys.json");
    if (!tenants.empty()) {
      options.tenants = folder_.At("tenants.json");
      std::ofstream(options.tenants) << tenants;
    }
    service_ = std::make_unique<ServiceHarness>(options);
    channel_ = NewChannel(service_->address());
  }
  HttpAnswer Http(const std::string& authorization) {
    return Ask(service_->http->port(), "POST", kChat, kGoodChat,
               {{"Authorization", authorization}});
  }
  CallEnd Grpc(const std::multimap<std::string, std::string>& metadata,
               const char* method = "Tokenize") {
    v1::TokenizeRequest request;
    request.set_text("x");
    return CallWithBytes(channel_, absl::StrCat("/tuppence.v1.Inference/", method),
                         request.SerializeAsString(), nullptr, {.metadata = metadata});
  }

  Folder folder_;
  std::unique_ptr<ServiceHarness> service_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(KeysTest, WhoShowsAKeyIsItsTenantThroughBothDoors) {
  const std::string shop = Make("shop");
  Make("other");
  Serve();
  EXPECT_EQ(Http("Bearer " + shop).status, 200);
  EXPECT_EQ(Http("bearer " + shop).status, 200);
  EXPECT_EQ(Grpc({{"authorization", "Bearer " + shop}}).code, kOk);
  service_->ExpectAtRest();
  EXPECT_THAT(service_->log(), HasSubstr("\"tenant\":\"shop\""));
  EXPECT_THAT(service_->log(), Not(HasSubstr("\"tenant\":\"other\"")));
  // The file holds hashes, is nobody else's to read, and the log holds nothing of a key.
  EXPECT_THAT(ReadAll(folder_.At("keys.json")), Not(HasSubstr(shop)));
  EXPECT_EQ(std::filesystem::status(folder_.At("keys.json")).permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  EXPECT_THAT(service_->log(), Not(HasSubstr(shop)));
}

TEST_F(KeysTest, B1B6KeysThatAreNoneAre401) {
  const std::string good = Make("shop");
  const std::string expired = Make("shop", "2020-01-01");
  Serve();
  std::string other = good;
  other.back() = other.back() == 'A' ? 'B' : 'A';
  for (const std::string& bad :
       {std::string(), std::string("Bearer "), std::string("Bearer x"), good, "Basic " + good,
        "Bearer " + other, "Bearer " + good + "x", "Bearer " + good.substr(0, 20),
        "Bearer " + expired, "Bearer " + std::string(8000, 'k'), std::string("Bearer \xFF\xFE")}) {
    const HttpAnswer answer = Http(bad);
    EXPECT_EQ(answer.status, 401) << bad;
    EXPECT_EQ(answer.error()["code"], "invalid_api_key");
    EXPECT_EQ(answer.headers.at("www-authenticate"), "Bearer");
    EXPECT_THAT(answer.body, Not(HasSubstr("shop")));
    EXPECT_THAT(answer.body, Not(HasSubstr(good.substr(20)))) << "an error tells nobody a key";
    if (bad.find('\xFF') != std::string::npos) continue;  // no client of gRPC's sends that
    const CallEnd end = Grpc({{"authorization", bad}});
    EXPECT_EQ(end.code, kUnauthenticated) << bad;
    EXPECT_EQ(end.reason, "INVALID_API_KEY");
  }
  // Before the key is looked at: a header too long, or with what no header holds. (gRPC's own
  // client sends no NUL.)
  EXPECT_EQ(Http("Bearer " + std::string(64 << 10, 'k')).status, 431);
  EXPECT_EQ(Grpc({{"authorization", "Bearer " + std::string(64 << 10, 'k')}}).code,
            kResourceExhausted);
  EXPECT_EQ(Http("Bearer " + good + std::string(1, '\0')).status, 400);
  const HttpAnswer twice =
      Ask(service_->http->port(), "POST", kChat, kGoodChat,
          {{"Authorization", "Bearer " + good}, {"Authorization", "Bearer " + good}});
  EXPECT_EQ(twice.status, 401);
  EXPECT_EQ(Grpc({{"authorization", "Bearer " + good}, {"authorization", "Bearer " + good}}).code,
            kUnauthenticated);
  EXPECT_EQ(service_->engine.Snapshot().requests_accepted, 0);
}

// No key makes an operator of a caller: what is theirs is on the admin port, which listens on this
// machine alone unless told otherwise and asks for no key. Here there is nothing at these paths.
TEST_F(KeysTest, B3NoKeyReachesTheOperatorsPages) {
  const HttpClient::Headers shop = {{"Authorization", "Bearer " + Make("shop")}};
  Serve();
  for (const char* path : {"/", "/status", "/metrics", "/healthz", "/livez", "/readyz"}) {
    for (const char* verb : {"GET", "POST"}) {
      EXPECT_EQ(Ask(service_->http->port(), verb, path, std::nullopt, shop).status, 404) << path;
    }
  }
}

TEST_F(KeysTest, B4EveryRouteAndMethodNeedsAKey) {
  Make("shop");
  Serve();
  for (const HttpRoute& route : HttpRoutes::Table()) {
    const std::string path = absl::StrReplaceAll(route.path, {{"*", "demo"}});
    for (const char* verb : {"GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE",
                             "CONNECT", "get", "FROB"}) {
      const HttpAnswer answer = Ask(service_->http->port(), verb, path, kGoodChat);
      if (route.open) {
        EXPECT_THAT(answer.status, AnyOf(200, 405)) << verb << " " << path;
      } else {
        EXPECT_EQ(answer.status, 401) << verb << " " << path;
      }
    }
  }
  EXPECT_EQ(Ask(service_->http->port(), "GET", "/no/such/path").status, 401);
  const auto* methods = v1::GenerateRequest::descriptor()->file()->FindServiceByName("Inference");
  ASSERT_NE(methods, nullptr);
  EXPECT_GE(methods->method_count(), 5);
  for (int i = 0; i < methods->method_count(); ++i) {
    const std::string method(methods->method(i)->name());
    EXPECT_EQ(Grpc({}, method.c_str()).code, kUnauthenticated) << method;
  }
}

TEST_F(KeysTest, RevokedAndNewKeysCountAfterTheFileIsReadAgain) {
  const std::string old = Make("shop");
  Serve();
  EXPECT_EQ(Http("Bearer " + old).status, 200);
  const std::string id = old.substr(std::string("tuppence-").size(), 8);
  ASSERT_TRUE(RemoveApiKey(folder_.At("keys.json"), id).ok());
  const std::string made = Make("shop");
  EXPECT_EQ(Http("Bearer " + old).status, 200);
  ASSERT_TRUE(service_->keys->Reload().ok());
  EXPECT_EQ(Http("Bearer " + old).status, 401);
  EXPECT_EQ(Http("Bearer " + made).status, 200);
  EXPECT_EQ(RemoveApiKey(folder_.At("keys.json"), id).code(), absl::StatusCode::kNotFound);
  // A file that cannot be read leaves all as it was.
  std::ofstream(folder_.At("keys.json")) << R"({"keys": [{"id": "12345678", "sha256": "xy"}]})";
  const absl::Status wrong = service_->keys->Reload();
  EXPECT_THAT(std::string(wrong.message()), HasSubstr("keys[0]: sha256 is \"xy\""));
  EXPECT_EQ(Http("Bearer " + made).status, 200);
}

TEST_F(KeysTest, ClassesAndLimitsOfAMinuteAreTheTenants) {
  const std::string shop = Make("shop"), free_key = Make("free");
  Serve(R"({"tenants": {"shop": {"requests_per_minute": 2, "tokens_per_minute": 100000,
                                 "classes": ["standard"]}}})");
  const HttpAnswer first = Http("Bearer " + shop);
  EXPECT_EQ(first.headers.at("x-ratelimit-limit-requests"), "2");
  EXPECT_EQ(first.headers.at("x-ratelimit-remaining-requests"), "1");
  EXPECT_EQ(first.headers.at("x-ratelimit-limit-tokens"), "100000");
  EXPECT_EQ(Http("Bearer " + shop).status, 200);
  const HttpAnswer third = Http("Bearer " + shop);
  EXPECT_EQ(third.status, 429);
  EXPECT_EQ(third.error()["code"], "rate_limit_exceeded");
  EXPECT_EQ(third.headers.at("x-ratelimit-remaining-requests"), "0");
  EXPECT_EQ(third.headers.count("retry-after-ms"), 1u);
  OngoingCall grpc(channel_, ServiceHarness::GoodRequest(),
                   {.metadata = {{"authorization", "Bearer " + shop}}});
  EXPECT_EQ(grpc.Wait().code, kResourceExhausted);
  EXPECT_EQ(grpc.Wait().reason, "RATE_LIMIT");
  EXPECT_EQ(grpc.Wait().quota_subject, "tenant:shop");
  EXPECT_TRUE(grpc.Wait().retry_ms.has_value());
  EXPECT_EQ(Http("Bearer " + free_key).status, 200);  // its neighbours go on
  EXPECT_EQ(Http("Bearer " + free_key).headers.count("x-ratelimit-limit-requests"), 0u);
  Json urgent = Json::parse(kGoodChat);
  urgent["priority_class"] = "interactive";
  EXPECT_EQ(Ask(service_->http->port(), "POST", kChat, urgent.dump(),
                {{"Authorization", "Bearer " + shop}})
                .status,
            403);
}

// Whatever the answer is: but who is not known hears nothing of it.
TEST_F(KeysTest, EachAnswerSaysHowTheTenantStands) {
  const HttpClient::Headers shop = {{"Authorization", "Bearer " + Make("shop")}};
  Serve(R"({"tenants": {"shop": {"requests_per_minute": 6, "tokens_per_minute": 90000}}})");
  const auto answer = [&](const char* verb, const char* path, const std::string& body,
                          HttpClient::Headers headers) {
    return Ask(service_->http->port(), verb, path, body, headers);
  };
  std::vector<std::pair<HttpAnswer, int>> answers = {
      {answer("POST", kChat, kGoodChat, shop), 200},
      {answer("POST", kChat, "{", shop), 400},
      {answer("POST", kChat, R"({"messages":[{"role":"user","content":"x"}],"model":"y"})", shop),
       404},
      {answer("POST", "/v1/batches", "{}", shop), 404},
      {answer("GET", "/v1/models", "", shop), 200},
      {answer("GET", "/v1/models/other", "", shop), 404},
      {answer("GET", "/no/such/path", "", shop), 404},
      {answer("PUT", "/v1/models", "", shop), 405}};
  HttpClient::Headers plain = shop;
  plain.emplace("Content-Type", "text/plain");
  answers.emplace_back(answer("POST", kChat, kGoodChat, plain), 415);
  for (const auto& [got, status] : answers) {
    EXPECT_EQ(got.status, status) << got.body;
    ASSERT_EQ(got.headers.count("x-ratelimit-limit-requests"), 1u) << got.body;
    EXPECT_EQ(got.headers.at("x-ratelimit-limit-requests"), "6");
    EXPECT_EQ(got.headers.at("x-ratelimit-limit-tokens"), "90000");
    EXPECT_THAT(got.headers.at("x-ratelimit-remaining-requests"), MatchesRegex("[3-6]"));
    EXPECT_THAT(got.headers.at("x-ratelimit-reset-requests"), MatchesRegex("[0-9]+ms"));
    EXPECT_THAT(got.headers.at("x-ratelimit-reset-tokens"), MatchesRegex("[0-9]+ms"));
  }
  EXPECT_EQ(answer("GET", "/v1/models", "", {}).headers.count("x-ratelimit-limit-requests"), 0u);
}

TEST_F(KeysTest, EveryPostIsARequestOfTheMinuteThroughBothDoors) {
  const HttpClient::Headers shop = {{"Authorization", "Bearer " + Make("shop")}};
  Serve(R"({"tenants": {"shop": {"requests_per_minute": 4}}})");
  const auto post = [&](const char* path, const char* body) {
    return Ask(service_->http->port(), "POST", path, body, shop);
  };
  EXPECT_EQ(post("/tokenize", R"({"prompt":"x"})").status, 200);
  EXPECT_EQ(post("/detokenize", R"({"tokens":[300]})").status, 200);
  EXPECT_EQ(post("/v1/batches", "{}").status, 404) << "this service keeps no files";
  const std::multimap<std::string, std::string> metadata = {
      {"authorization", shop.begin()->second}};
  EXPECT_EQ(Grpc(metadata).code, kOk);
  for (const char* path : {"/tokenize", "/detokenize", "/v1/batches", "/v1/batches/x/cancel"}) {
    const HttpAnswer refused = post(path, "{}");
    EXPECT_EQ(refused.status, 429) << path;
    EXPECT_EQ(refused.error()["code"], "rate_limit_exceeded");
    EXPECT_EQ(refused.headers.at("x-ratelimit-remaining-requests"), "0");
  }
  for (const char* method : {"Tokenize", "Detokenize"}) {
    EXPECT_EQ(Grpc(metadata, method).reason, "RATE_LIMIT") << method;
  }
  EXPECT_EQ(Grpc(metadata, "GetModel").code, kOk);
  EXPECT_EQ(Ask(service_->http->port(), "GET", "/v1/models", std::nullopt, shop).status, 200);
}

TEST(TenantRatesTest, AMinutesWorthMayComeAtOnceAndFillsUpEvenly) {
  TenantRates rates;
  const MinuteLimits limits = {.requests = 6};
  EXPECT_EQ(rates.Look("a", limits, 0).requests.remaining, 6);
  for (int i = 0; i < 6; ++i) {
    EXPECT_TRUE(rates.Take("a", limits, 1, 0).ok());
    EXPECT_EQ(rates.Look("a", limits, 0).requests.remaining, 5 - i);
    EXPECT_EQ(rates.Look("a", limits, 0).requests.full_in_ms, 10'000 * (i + 1));
  }
  const absl::Status refused = rates.Take("a", limits, 1, 0);
  EXPECT_EQ(RefusalOf(refused)->retry_after_ms, 10'000);
  EXPECT_TRUE(rates.Take("b", limits, 1, 0).ok());
  EXPECT_FALSE(rates.Take("a", limits, 1, 9 * kSecondNs).ok());
  EXPECT_TRUE(rates.Take("a", limits, 1, 10 * kSecondNs).ok());
  EXPECT_FALSE(rates.Take("a", limits, 1, 19 * kSecondNs).ok());
}

TEST(TenantRatesTest, TokensThatWereNotNeededGoBackAndTooManyAtOnceNeverFit) {
  TenantRates rates;
  const MinuteLimits limits = {.tokens = 600};
  EXPECT_TRUE(rates.Take("a", limits, 500, 0).ok());
  EXPECT_EQ(rates.Look("a", limits, 0).tokens.remaining, 100);
  EXPECT_FALSE(rates.Take("a", limits, 200, 0).ok());
  rates.GiveBack("a", limits, 400);
  EXPECT_TRUE(rates.Take("a", limits, 200, 0).ok());
  EXPECT_EQ(rates.Look("a", limits, 0).tokens.remaining, 300);
  const absl::Status never = rates.Take("b", limits, 601, 0);
  EXPECT_EQ(RefusalOf(never)->retry_after_ms, -1);
  EXPECT_THAT(std::string(never.message()), HasSubstr("this request alone may need 601"));
}

}  // namespace
}  // namespace tuppence
