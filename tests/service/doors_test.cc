// What the gRPC port itself takes and refuses (section A), and the standards beside our own API:
// health, reflection, GetModel.
#include <arpa/inet.h>
#include <grpcpp/grpcpp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/service/raw_connection.h"
#include "tests/service/service_harness.h"

namespace tuppence {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

// Messages of grpc.health.v1 and reflection are small enough to read by hand.
int HealthOf(ServiceHarness& service, const std::string& name) {
  std::string request;
  if (!name.empty()) {
    request = absl::StrCat("\x0A", std::string(1, static_cast<char>(name.size())), name);
  }
  std::string response;
  const CallEnd end =
      CallWithBytes(service.channel(), "/grpc.health.v1.Health/Check", request, &response);
  if (end.code != kOk) return -end.code;
  return response.size() >= 2 ? response[1] : 0;
}
constexpr int kServing = 1;
constexpr int kNotServing = 2;

TEST(DoorsTest, HealthFollowsTheEngineAndNotThePort) {
  HarnessOptions options;
  options.server.hang_ns = 400'000'000;
  ServiceHarness service(options);
  for (const char* name : {"", "liveness", "readiness", "tuppence.v1.Inference"}) {
    EXPECT_EQ(HealthOf(service, name), kServing) << name;
  }
  EXPECT_EQ(HealthOf(service, "nobody"), -kNotFound);
  service.executor.held = true;  // the engine hangs in a step; the port still answers
  const auto call = service.Start(ServiceHarness::GoodRequest());
  for (int i = 0; i < 300 && HealthOf(service, "readiness") == kServing; ++i) usleep(10'000);
  EXPECT_EQ(HealthOf(service, "tuppence.v1.Inference"), kNotServing);
  EXPECT_EQ(HealthOf(service, ""), kNotServing);
  EXPECT_THAT(service.server->readiness().reason, HasSubstr("no progress for"));
  service.executor.held = false;
  EXPECT_EQ(call->Wait().code, kOk);
  for (int i = 0; i < 300 && HealthOf(service, "readiness") != kServing; ++i) usleep(10'000);
  EXPECT_EQ(HealthOf(service, "readiness"), kServing);
}

TEST(DoorsTest, DrainingIsLiveAndNotReadyAtOnce) {
  ServiceHarness service;
  service.server->SetNotServing();
  EXPECT_EQ(HealthOf(service, ""), kServing);
  EXPECT_EQ(HealthOf(service, "tuppence.v1.Inference"), kNotServing);
  EXPECT_EQ(HealthOf(service, "readiness"), kNotServing);
}

TEST(DoorsTest, ReflectionListsTheService) {
  ServiceHarness service;
  const std::string list_services = "\x3A\x01*";
  std::string response;
  // A stream of one message each way reads as a unary call.
  const CallEnd end = CallWithBytes(
      service.channel(), "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
      list_services, &response);
  EXPECT_EQ(end.code, kOk) << end.message;
  EXPECT_THAT(response, HasSubstr("tuppence.v1.Inference"));
  EXPECT_THAT(response, HasSubstr("grpc.health.v1.Health"));
}

TEST(DoorsTest, GetModelTellsWhatIsServed) {
  ServiceHarness service;
  v1::GetModelResponse model;
  const CallEnd end = service.Call("GetModel", v1::GetModelRequest(), &model);
  ASSERT_EQ(end.code, kOk);
  EXPECT_EQ(model.name(), "demo");
  EXPECT_EQ(model.context_tokens(), 2048);
  EXPECT_TRUE(model.has_tokenizer());
  EXPECT_EQ(model.chat_template(), "phi-3.5");
  EXPECT_THAT(model.stop_token_ids(), SizeIs(1));
  EXPECT_FALSE(model.version().empty());
  EXPECT_EQ(end.initial.count("tuppence-request-id"), 1u);
  EXPECT_EQ(end.trailing.count("tuppence-request-id"), 1u);
}

TEST(DoorsTest, A1GarbageAndTlsOnThePlainPortCloseTheirConnectionOnly) {
  ServiceHarness service;
  for (const std::string& bytes :
       {std::string("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), std::string(4096, '\xAA'),
        std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03", 11),
        std::string("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnot frames at all, but long enough to be")}) {
    RawConnection connection(service.server->port());
    connection.Write(bytes);
    EXPECT_TRUE(connection.WaitForClose());
  }
  service.ExpectUnharmed();
}

TEST(DoorsTest, A2MetadataOver16KiBIsRefused) {
  ServiceHarness service;
  {
    // On a connection of its own, for gRPC closes it as well.
    OngoingCall call(NewChannel(service.address()), ServiceHarness::GoodRequest(),
                     {.metadata = {{"x-big", std::string(20000, 'm')}}});
    EXPECT_EQ(call.Wait().code, kResourceExhausted);
  }
  service.ExpectUnharmed();
}

TEST(DoorsTest, A3OddHeadersEndTheirStreamOnly) {
  ServiceHarness service;
  for (const OddHeaders& odd :
       {OddHeaders{.te = "x"}, OddHeaders{.scheme = "ftp"},
        OddHeaders{.te = "x", .filler_bytes = 9000}, OddHeaders{.method = "DELETE"},
        OddHeaders{.content_type = "text/html"}}) {  // A15
    RawConnection connection(service.server->port());
    connection.Write(Http2Request("/tuppence.v1.Inference/GetModel", odd));
    EXPECT_TRUE(connection.WaitForBytes());
  }
  service.ExpectUnharmed();
}

TEST(DoorsTest, A4MessageOver4MiBIsRefusedUnread) {
  ServiceHarness service;
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  request.set_text(std::string(5 << 20, 'x'));
  const auto call = service.Generate(request);
  EXPECT_EQ(call->Wait().code, kResourceExhausted);
  service.ExpectUnharmed();
}

TEST(DoorsTest, A7CompressedMessagesAreUnimplemented) {
  ServiceHarness service;
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  request.set_text(std::string(3 << 20, ' '));
  const auto call = service.Generate(request, {.gzip = true});
  EXPECT_EQ(call->Wait().code, kUnimplemented) << call->Wait().message;
  service.ExpectUnharmed();
}

// A call for many tokens, from a peer that sends its bytes and then does nothing.
std::unique_ptr<RawConnection> OpenRawCall(ServiceHarness& service) {
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  request.mutable_sampling()->set_max_tokens(1500);
  auto connection = std::make_unique<RawConnection>(service.server->port());
  OddHeaders plain;
  plain.body = request.SerializeAsString();
  connection->Write(Http2Request("/tuppence.v1.Inference/Generate", plain));
  EXPECT_TRUE(connection->WaitForBytes());
  for (int i = 0; i < 2000 && service.engine.Snapshot().running == 0; ++i) usleep(1000);
  EXPECT_EQ(service.engine.Snapshot().running, 1);
  return connection;
}

TEST(DoorsTest, A11AHalfOpenPeerIsClosedByKeepaliveAndItsPlaceFreed) {
  HarnessOptions options;
  options.server.keepalive_ns = options.server.keepalive_timeout_ns = 200'000'000;
  ServiceHarness service(options);
  service.executor.step_us = 20'000;  // the answer would take half a minute
  const auto silent = OpenRawCall(service);
  EXPECT_TRUE(silent->WaitForClose());  // it reads, and never answers a ping
  for (int i = 0; i < 2000 && service.engine.Snapshot().running > 0; ++i) usleep(1000);
  EXPECT_LT(service.engine.Snapshot().completion_tokens, 1500);
  service.executor.step_us = 0;
  service.ExpectUnharmed();
}

TEST(DoorsTest, A13AClientThatVanishesMidStreamLeavesNothing) {
  ServiceHarness service;
  service.executor.step_us = 500;
  OpenRawCall(service)->Reset();
  service.executor.step_us = 0;
  service.ExpectUnharmed();
}

TEST(DoorsTest, A14UnknownMethodsAreUnimplemented) {
  ServiceHarness service;
  for (const char* path : {"/tuppence.v1.Inference/Delete", "/nobody.v1.Service/Call", "/"}) {
    EXPECT_EQ(CallWithBytes(service.channel(), path, "", nullptr).code, kUnimplemented) << path;
  }
  service.ExpectUnharmed();
}

TEST(DoorsTest, PortInUseIsNamedWithTheWayOut) {
  ServiceHarness service;
  ServerOptions options;
  options.port = service.server->port();
  const auto second = Server::Start(options, service.parts);
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr(absl::StrCat("port ", options.port,
                                     " is in use by another process; stop "
                                     "that one or choose another --port")));
  service.ExpectUnharmed();
}

TEST(DoorsTest, AddressOfAnotherMachineIsNamed) {
  ServiceHarness service;
  ServerOptions options;
  options.port = 0;
  options.host = "203.0.113.1";
  const auto second = Server::Start(options, service.parts);
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("--host"));
}

}  // namespace
}  // namespace tuppence
