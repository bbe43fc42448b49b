// What the service keeps to itself: no outbound connection, no prompt or answer on disk or in its
// log. The kernel is asked, through strace, rather than the code.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <sstream>

#include "service/planner/trace_file.h"
#include "tests/end_to_end/service_process.h"

namespace tuppence {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// Words that occur nowhere else.
constexpr char kSentinel[] = "quillwort-banister-77";

// Lines of a trace that match; each as it stands.
template <typename Matches>
std::vector<std::string> LinesThat(const std::string& trace, const Matches& matches) {
  std::vector<std::string> found;
  std::istringstream lines(trace);
  for (std::string line; std::getline(lines, line);) {
    if (matches(line)) found.push_back(line);
  }
  return found;
}

bool Has(const std::string& line, const char* words) {
  return line.find(words) != std::string::npos;
}

// Asks with the sentinel in the prompt, in a name that is refused, and in what comes back.
void UseTheService(ServiceProcess* service) {
  const std::unique_ptr<Client> client = service->MakeClient();
  v1::GenerateRequest request = OrderRequest();
  request.mutable_chat()->mutable_messages(1)->set_content(std::string(kSentinel) +
                                                           " where is my order 48213?");
  EXPECT_TRUE(Ask(client.get(), request).status.ok());
  request.set_model(kSentinel);
  EXPECT_EQ(Ask(client.get(), request).status.code(), absl::StatusCode::kNotFound);
  v1::TokenizeRequest tokenize;
  tokenize.set_text(kSentinel);
  v1::TokenizeResponse tokens;
  EXPECT_TRUE(client->Tokenize(tokenize, &tokens).ok());
  v1::DetokenizeRequest detokenize;
  *detokenize.mutable_token_ids() = tokens.token_ids();
  v1::DetokenizeResponse text;
  EXPECT_TRUE(client->Detokenize(detokenize, &text).ok());
  EXPECT_THAT(text.text(), HasSubstr(kSentinel));
}

TEST(DiscretionTest, PromptsAndAnswersAreNotInTheLog) {
  ServiceProcess service(kDemoModel, {"--log-level", "debug"});
  ASSERT_TRUE(service.ready()) << service.Story();
  UseTheService(&service);
  service.process().Signal(SIGTERM);
  EXPECT_EQ(service.process().Wait(20), 0) << service.Story();
  for (const std::string& log : {service.process().Output(), service.process().Errors()}) {
    EXPECT_THAT(log, Not(HasSubstr(kSentinel)));
    EXPECT_THAT(log, Not(HasSubstr("48213")));
  }
}

TEST(DiscretionTest, ATraceHasTimesAndCountsAndNoText) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/trace.csv";
  ServiceProcess service(kDemoModel, {"--write-trace", path});
  ASSERT_TRUE(service.ready()) << service.Story();
  UseTheService(&service);
  service.process().Signal(SIGTERM);
  EXPECT_EQ(service.process().Wait(20), 0) << service.Story();
  const std::string trace = ReadFile(path);
  EXPECT_THAT(trace, Not(HasSubstr(kSentinel)));
  EXPECT_THAT(trace, Not(HasSubstr("48213")));
  const auto traffic = ParseTrace(trace);
  ASSERT_TRUE(traffic.ok()) << traffic.status() << "\n" << trace;
  ASSERT_EQ(traffic->arrivals.size(), 1u) << trace;
  EXPECT_GT(traffic->arrivals[0].prompt_tokens, 10);
}

TEST(DiscretionTest, NoOutboundConnectionAndNothingWrittenToDisk) {
  const Finished probe = RunToEnd({"strace", "-f", "-e", "trace=none", "true"});
  if (probe.exit_code != 0) GTEST_SKIP() << "strace cannot trace here: " << probe.errors;
  const TemporaryFolder folder;
  const std::string trace_path = folder.path() + "/trace";
  ServiceProcess service(kDemoModel, {"--http-port", "0"},
                         {"strace", "-f", "-qq", "-y", "-s", "4096", "-o", trace_path, "-e",
                          "trace=connect,sendto,sendmsg,sendmmsg,open,openat,creat,rename,write,"
                          "writev,pwrite64,mkdir,link"});
  ASSERT_TRUE(service.ready()) << service.Story();
  UseTheService(&service);
  // C13: what an address in a request points to is nobody's to fetch.
  for (const char* url :
       {"http://169.254.169.254/latest", "https://example.com/a.png", "file:///etc/passwd"}) {
    const std::string part = std::string(R"({"type":"image_url","image_url":{"url":")") + url;
    EXPECT_THAT(
        service.HttpStatus("/v1/chat/completions",
                           R"({"messages":[{"role":"user","content":[)" + part + "\"}}]}]}"),
        HasSubstr(" 400 "));
  }
  kill(service.server_pid(), SIGTERM);
  ASSERT_TRUE(service.process().Wait(30).has_value());
  const std::string trace = ReadFile(trace_path);
  ASSERT_THAT(trace, HasSubstr("model.safetensors")) << "the trace shows the start";

  // gRPC connects a datagram socket to learn whether IPv6 is there; that sends nothing.
  EXPECT_THAT(LinesThat(trace,
                        [](const std::string& line) {
                          return Has(line, "connect(") && Has(line, "AF_INET") &&
                                 !Has(line, "127.0.0.1") && !Has(line, "\"::1\"") &&
                                 !Has(line, "UDP");
                        }),
              IsEmpty());
  // A question to a name server, say, would go out this way, with or without a connection.
  EXPECT_THAT(LinesThat(trace,
                        [](const std::string& line) {
                          const bool sends = Has(line, "send") || Has(line, "write");
                          return sends && (Has(line, "<UDP") || Has(line, "htons(53)"));
                        }),
              IsEmpty());
  // Files may be read; none is opened for writing.
  EXPECT_THAT(
      LinesThat(trace,
                [](const std::string& line) {
                  const bool opens = Has(line, "open") || Has(line, "creat(");
                  return opens &&
                         (Has(line, "O_WRONLY") || Has(line, "O_RDWR") || Has(line, "O_CREAT")) &&
                         !Has(line, "/dev/") && !Has(line, "/proc/") && !Has(line, "/sys/");
                }),
      IsEmpty());
  // Prompt and answer leave through sockets alone; that they do is the trace's own check.
  EXPECT_THAT(LinesThat(trace,
                        [](const std::string& line) {
                          return Has(line, kSentinel) && Has(line, "sendmsg(");
                        }),
              Not(IsEmpty()));
  EXPECT_THAT(LinesThat(trace,
                        [](const std::string& line) {
                          return (Has(line, kSentinel) || Has(line, "48213")) &&
                                 !Has(line, "sendmsg(");
                        }),
              IsEmpty());
}

}  // namespace
}  // namespace tuppence
