// Mutual TLS from one command to the other: certificates made by openssl, flags on both sides.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/end_to_end/service_process.h"

namespace tuppence {
namespace {

using ::testing::HasSubstr;

TEST(TlsTest, ChatAndServiceShowEachOtherTheirCertificates) {
  const TemporaryFolder folder;
  const std::string certificate = folder.path() + "/certificate.pem";
  const std::string key = folder.path() + "/key.pem";
  // One certificate that signs itself is authority, service and client.
  const Finished made =
      RunToEnd({"openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                "-nodes", "-days", "2", "-subj", "/CN=tuppence test", "-addext",
                "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate});
  if (made.exit_code != 0) GTEST_SKIP() << "needs the openssl command: " << made.errors;
  ServiceProcess service(
      kDemoModel, {"--tls-cert", certificate, "--tls-key", key, "--tls-client-ca", certificate});
  ASSERT_TRUE(service.ready()) << service.Story();

  std::vector<std::string> chat = {kBinary,     "chat",  "--address", service.address(),
                                   "--message", "Hello", "--tls-ca",  certificate};
  EXPECT_EQ(RunToEnd(chat).exit_code, 1) << "without a certificate of its own";
  chat.insert(chat.end(), {"--tls-cert", certificate});
  const Finished half = RunToEnd(chat);
  EXPECT_EQ(half.exit_code, 1);
  EXPECT_THAT(half.errors, HasSubstr("--tls-cert and --tls-key belong together"));
  chat.insert(chat.end(), {"--tls-key", key});
  const Finished whole = RunToEnd(chat);
  EXPECT_EQ(whole.exit_code, 0) << whole.errors;
  EXPECT_THAT(whole.output, HasSubstr("Hello"));

  const Finished plain = RunToEnd(
      {kBinary, "chat", "--address", service.address(), "--message", "Hello", "--timeout", "5"});
  EXPECT_EQ(plain.exit_code, 1) << "plain text at a TLS port";
}

}  // namespace
}  // namespace tuppence
