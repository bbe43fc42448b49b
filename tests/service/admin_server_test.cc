// The admin port: its pages, what it refuses, and the metrics.
#include "service/admin_server.h"

#include <unistd.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "service/metrics.h"
#include "tests/service/raw_connection.h"
#include "tests/service/service_harness.h"

namespace tuppence {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class AdminServerTest : public ::testing::Test {
 protected:
  AdminServerTest() {
    AdminRoutes routes;
    routes["/page"] = [] { return AdminPage{.body = "content\n"}; };
    routes["/down"] = [] { return AdminPage{.status = 503, .body = "because\n"}; };
    auto started = AdminServer::Start("127.0.0.1", 0, routes);
    EXPECT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
  }
  std::string Send(const std::string& bytes) {
    RawConnection connection(server_->port());
    connection.Write(bytes);
    return connection.ReadAll();
  }
  std::string Get(const std::string& path) {
    return Send(absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
  }

  std::unique_ptr<AdminServer> server_;
};

TEST_F(AdminServerTest, ServesItsPages) {
  EXPECT_THAT(Get("/page"), AllOf(StartsWith("HTTP/1.1 200"), HasSubstr("\r\n\r\ncontent\n")));
  EXPECT_THAT(Get("/page?query=ignored"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(Get("/down"), AllOf(StartsWith("HTTP/1.1 503"), HasSubstr("because")));
  EXPECT_THAT(Send("GET /page HTTP/1.0\r\n\r\n"), StartsWith("HTTP/1.0 200"));
  const std::string head = Send("HEAD /page HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(head, AllOf(HasSubstr("Content-Length: 8"), Not(HasSubstr("content\n"))));
}

TEST_F(AdminServerTest, RefusesEverythingElse) {
  EXPECT_THAT(Get("/other"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(Get("//page"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(Get("/%2e%2e/page"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(Send("POST /page HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                   "Content-Length: 0\r\n\r\n"),
              StartsWith("HTTP/1.1 405"));
  EXPECT_THAT(Send("POST /page HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"),
              StartsWith("HTTP/1.1 413"));
  EXPECT_THAT(Send("nonsense\r\n\r\n"), StartsWith("HTTP/1.1 400"));
  EXPECT_THAT(Send(absl::StrCat("GET /page HTTP/1.1\r\nX: ", std::string(20000, 'h'), "\r\n\r\n")),
              StartsWith("HTTP/1.1 431"));
  EXPECT_THAT(Get("/page"), StartsWith("HTTP/1.1 200"));
}

TEST_F(AdminServerTest, HasRoomForSoManyConnectionsAndNoMore) {
  std::vector<std::unique_ptr<RawConnection>> idle;
  for (int i = 0; i < 64; ++i) idle.push_back(std::make_unique<RawConnection>(server_->port()));
  EXPECT_THAT(Get("/page"), StartsWith("HTTP/1.1 503"));
  idle.clear();
  for (int i = 0; i < 200 && !absl::StartsWith(Get("/page"), "HTTP/1.1 200"); ++i) usleep(5000);
  EXPECT_THAT(Get("/page"), StartsWith("HTTP/1.1 200"));
}

TEST_F(AdminServerTest, PortInUseIsNamedWithTheWayOut) {
  const auto second = AdminServer::Start("127.0.0.1", server_->port(), {});
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr(absl::StrCat("port ", server_->port(), " is in use")));
  EXPECT_THAT(std::string(AdminServer::Start("localhorst", 0, {}).status().message()),
              HasSubstr("give --admin-host an address of this machine"));
}

TEST(MetricsTest, CountsWhatHappenedAndNamesNobody) {
  HarnessOptions options;
  options.limits.tenant_header = "x-tenant";
  ServiceHarness service(options);
  service.Generate(ServiceHarness::GoodRequest(), {.metadata = {{"x-tenant", "sentinel-tenant"}}});
  v1::GenerateRequest bad = ServiceHarness::GoodRequest();
  bad.mutable_sampling()->set_n(99);
  service.Generate(bad);
  service.ExpectAtRest();
  const std::string text = FormatMetrics(service.parts);
  EXPECT_THAT(
      text,
      HasSubstr(
          "tuppence_calls_ended_total{model_name=\"demo\",method=\"Generate\",outcome=\"OK\"} 2"));
  EXPECT_THAT(text, HasSubstr("outcome=\"INVALID_ARGUMENT\"} 1"));
  EXPECT_THAT(text, HasSubstr("tuppence_completion_tokens_total{model_name=\"demo\"} 8"));
  EXPECT_THAT(text, HasSubstr("tuppence_requests_running{model_name=\"demo\"} 0"));
  EXPECT_THAT(text,
              HasSubstr("tuppence_machine_seconds_total{model_name=\"demo\",account=\"idle\"}"));
  EXPECT_THAT(text, HasSubstr("# TYPE tuppence_kv_blocks_used gauge"));
  EXPECT_THAT(text, Not(HasSubstr("sentinel")));
}

}  // namespace
}  // namespace tuppence
