// TLS and mutual TLS: who gets in, and which certificate files are refused at start, by flag, file
// and reason. Certificates are made here, by the openssl program.
#include "service/tls.h"

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/write.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "service/client.h"
#include "tests/service/raw_connection.h"
#include "tests/service/service_harness.h"

namespace tuppence {
namespace {

namespace asio = boost::asio;
using ::testing::AllOf;
using ::testing::HasSubstr;

// One folder for all tests: two authorities, a server's pair, a client's, and a stranger's.
class TlsTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::filesystem::temp_directory_path() / absl::StrCat("tuppence_tls_", getpid());
    std::filesystem::create_directories(folder_);
    MakeAuthority("ca");
    MakeAuthority("other_ca");
    MakePair("server", "ca", 2);
    MakePair("client", "ca", 2);
    MakePair("stranger", "other_ca", 2);
    MakePair("old", "ca", -1);
    MakePair("nameless", "ca", 2, /*has_names=*/false);
    Run("ec -in server.key -aes256 -passout pass:x -out locked.key");
    std::ofstream(folder_ / "garbage.pem") << "this is no PEM\n";
  }
  static void TearDownTestSuite() { std::filesystem::remove_all(folder_); }

  static void Run(const std::string& arguments) {
    const std::string command =
        absl::StrCat("cd ", folder_.string(), " && openssl ", arguments, " >>log.txt 2>&1");
    ASSERT_EQ(std::system(command.c_str()), 0) << arguments;
  }
  static void MakeAuthority(const std::string& name) {
    Run(absl::StrCat("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=",
                     name, " -days 2 -keyout ", name, ".key -out ", name, ".crt"));
  }
  static void MakePair(const std::string& name, const std::string& authority, int days,
                       bool has_names = true) {
    std::ofstream(folder_ / "names.txt")
        << (has_names ? "subjectAltName=DNS:localhost,IP:127.0.0.1\n" : "");
    Run(absl::StrCat("req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=", name,
                     " -keyout ", name, ".key -out ", name, ".csr"));
    Run(absl::StrCat("x509 -req -in ", name, ".csr -CA ", authority, ".crt -CAkey ", authority,
                     ".key -CAcreateserial -days ", days, " -extfile names.txt -out ", name,
                     ".crt"));
  }
  static std::string Path(const std::string& name) { return (folder_ / name).string(); }

  static HarnessOptions Secured(bool mutual) {
    HarnessOptions options;
    options.server.tls = {Path("server.crt"), Path("server.key"), mutual ? Path("ca.crt") : ""};
    options.http.tls = options.server.tls;
    return options;
  }
  static int CodeFor(const ServiceHarness& service, const ClientOptions& client) {
    ClientOptions options = client;
    options.address = absl::StrCat("127.0.0.1:", service.server->port());
    auto channel = MakeChannel(options);
    EXPECT_TRUE(channel.ok()) << channel.status();
    OngoingCall call(*channel, ServiceHarness::GoodRequest(), {.deadline_ms = 5000});
    return call.Wait().code;
  }
  // The answer to GET /health over HTTPS, after those to what is sent before it; or what went
  // wrong.
  static std::string HealthOver(const ServiceHarness& service, const char* ca,
                                const char* pair = nullptr, const std::string& before = "") {
    asio::ssl::context context(asio::ssl::context::tls_client);
    context.load_verify_file(Path(ca));
    context.set_verify_mode(asio::ssl::verify_peer);
    if (pair != nullptr) {
      context.use_certificate_chain_file(Path(absl::StrCat(pair, ".crt")));
      context.use_private_key_file(Path(absl::StrCat(pair, ".key")), asio::ssl::context::pem);
    }
    asio::io_context io;
    asio::ssl::stream<asio::ip::tcp::socket> stream(io, context);
    stream.set_verify_callback(asio::ssl::host_name_verification("127.0.0.1"));
    const auto port = static_cast<uint16_t>(service.http->port());
    stream.next_layer().connect({asio::ip::address_v4::loopback(), port});
    boost::system::error_code error;
    stream.handshake(asio::ssl::stream_base::client, error);
    if (error) return error.message();
    asio::write(stream, asio::buffer(before), error);
    asio::write(stream,
                asio::buffer(std::string("GET /health HTTP/1.1\r\nHost: localhost\r\n"
                                         "Connection: close\r\n\r\n")),
                error);
    std::string answer;
    asio::read(stream, asio::dynamic_buffer(answer), error);
    return error && error != asio::error::eof ? error.message() : answer;
  }
  static ClientOptions Trusting(const char* ca, const char* pair = nullptr) {
    ClientOptions options;
    options.tls_ca = Path(ca);
    if (pair != nullptr) {
      options.tls_cert = Path(absl::StrCat(pair, ".crt"));
      options.tls_key = Path(absl::StrCat(pair, ".key"));
    }
    return options;
  }
  static std::string Refused(const TlsFiles& files) {
    const auto read = ReadTls(files);
    EXPECT_FALSE(read.ok());
    return std::string(read.status().message());
  }

  static std::filesystem::path folder_;
};
std::filesystem::path TlsTest::folder_;

TEST_F(TlsTest, ClientsThatTrustTheAuthorityGetIn) {
  ServiceHarness service(Secured(/*mutual=*/false));
  EXPECT_TRUE(service.server->uses_tls());
  EXPECT_EQ(CodeFor(service, Trusting("ca.crt")), kOk);
  EXPECT_EQ(CodeFor(service, Trusting("other_ca.crt")), kUnavailable);
  EXPECT_EQ(CodeFor(service, {}), kUnavailable);  // A1: plain text to the TLS port
  EXPECT_EQ(CodeFor(service, Trusting("ca.crt")), kOk);
}

TEST_F(TlsTest, GarbageOnTheTlsPortClosesItsConnectionOnly) {
  ServiceHarness service(Secured(/*mutual=*/false));
  RawConnection connection(service.server->port());
  connection.Write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  EXPECT_TRUE(connection.WaitForClose());
  EXPECT_EQ(CodeFor(service, Trusting("ca.crt")), kOk);
}

// The connection reads while it answers, and gives that up for the next request: the stream lives
// on.
TEST_F(TlsTest, RequestsMayBeSentAheadOverTlsToo) {
  ServiceHarness service(Secured(/*mutual=*/false));
  const std::string kVersion = "GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n";
  const std::string answers =
      HealthOver(service, "ca.crt", nullptr, kVersion + kVersion + kVersion);
  size_t count = 0;
  for (size_t at = 0; (at = answers.find("HTTP/1.1 200", at)) != std::string::npos; ++at) ++count;
  EXPECT_EQ(count, 4u) << answers;
  EXPECT_THAT(answers, HasSubstr("\"status\":\"ok\""));
}

TEST_F(TlsTest, MutualTlsAsksForACertificateOfTheAuthority) {
  ServiceHarness service(Secured(/*mutual=*/true));
  EXPECT_EQ(CodeFor(service, Trusting("ca.crt", "client")), kOk);
  EXPECT_EQ(CodeFor(service, Trusting("ca.crt")), kUnavailable);
  EXPECT_EQ(CodeFor(service, Trusting("ca.crt", "stranger")), kUnavailable);
  EXPECT_EQ(CodeFor(service, Trusting("ca.crt", "old")), kUnavailable);
  EXPECT_EQ(CodeFor(service, Trusting("ca.crt", "nameless")), kOk);
}

TEST_F(TlsTest, HttpHasTheSameTlsAsGrpc) {
  ServiceHarness service(Secured(/*mutual=*/false));
  EXPECT_TRUE(service.http->uses_tls());
  EXPECT_THAT(HealthOver(service, "ca.crt"), HasSubstr("HTTP/1.1 200"));
  EXPECT_THAT(HealthOver(service, "other_ca.crt"), HasSubstr("certificate verify failed"));
  RawConnection plain(service.http->port());
  plain.Write("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_TRUE(plain.WaitForClose());
  EXPECT_THAT(HealthOver(service, "ca.crt"), HasSubstr("HTTP/1.1 200"));
}

// B7. A client's certificate without names gets in: that the authority has signed it is all that is
// asked, for who a caller is its key says, and no name in a certificate means anything here.
TEST_F(TlsTest, MutualTlsHoldsOverHttpToo) {
  ServiceHarness service(Secured(/*mutual=*/true));
  EXPECT_THAT(HealthOver(service, "ca.crt", "client"), HasSubstr("HTTP/1.1 200"));
  EXPECT_THAT(HealthOver(service, "ca.crt"), HasSubstr("alert"));
  EXPECT_THAT(HealthOver(service, "ca.crt", "stranger"), HasSubstr("alert"));
  EXPECT_THAT(HealthOver(service, "ca.crt", "old"), HasSubstr("alert"));
  EXPECT_THAT(HealthOver(service, "ca.crt", "nameless"), HasSubstr("HTTP/1.1 200"));
}

TEST_F(TlsTest, UnusableFilesAreRefusedByFlagFileAndReason) {
  EXPECT_THAT(Refused({Path("absent.crt"), Path("server.key"), ""}),
              AllOf(HasSubstr("--tls-cert"), HasSubstr("absent.crt"),
                    HasSubstr("No such file or directory")));
  EXPECT_THAT(Refused({Path("garbage.pem"), Path("server.key"), ""}),
              AllOf(HasSubstr("--tls-cert"), HasSubstr("holds no PEM certificate")));
  EXPECT_THAT(Refused({Path("server.crt"), Path("garbage.pem"), ""}),
              AllOf(HasSubstr("--tls-key"), HasSubstr("no usable PEM private key")));
  EXPECT_THAT(Refused({Path("server.crt"), Path("client.key"), ""}),
              AllOf(HasSubstr("--tls-key"), HasSubstr("is not the key of the certificate")));
  EXPECT_THAT(Refused({Path("server.crt"), Path("locked.key"), ""}),
              AllOf(HasSubstr("--tls-key"), HasSubstr("must be unencrypted")));
  EXPECT_THAT(Refused({Path("old.crt"), Path("old.key"), ""}),
              AllOf(HasSubstr("--tls-cert"), HasSubstr("expired")));
  EXPECT_THAT(Refused({Path("server.crt"), Path("server.key"), Path("garbage.pem")}),
              AllOf(HasSubstr("--tls-client-ca"), HasSubstr("holds no PEM certificate")));
  EXPECT_THAT(Refused({folder_.string(), Path("server.key"), ""}), HasSubstr("--tls-cert"));
}

TEST_F(TlsTest, HalfAPairIsRefusedAtStart) {
  ServiceHarness plain;
  ServerOptions options;
  options.port = 0;
  options.tls.certificate = Path("server.crt");
  const auto server = Server::Start(options, plain.parts);
  ASSERT_FALSE(server.ok());
  EXPECT_THAT(std::string(server.status().message()), HasSubstr("both --tls-cert and --tls-key"));
}

}  // namespace
}  // namespace tuppence
