// What a newcomer runs: deploy/run.sh, with a program that is built already, and the Python
// example, with its deadline and its way to stop.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <thread>
#include <vector>

#include "tests/end_to_end/service_process.h"

namespace tuppence {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;

const std::string kExample = std::string(TUPPENCE_SOURCE_DIR) + "/deploy/examples/generate.py";

bool HasPythonGrpc() {
  return RunToEnd({"/usr/bin/python3", "-c", "import grpc, google.protobuf"}).exit_code == 0;
}

TEST(ExampleTest, StreamsAnAnswerAndItsCost) {
  if (!HasPythonGrpc()) GTEST_SKIP() << "needs Debian's python3-grpcio";
  ServiceProcess service(kDemoModel, {"--price-per-hour", "0.526"});
  ASSERT_TRUE(service.ready()) << service.Story();
  const Finished example = RunToEnd({"/usr/bin/python3", kExample, service.address()});
  EXPECT_EQ(example.exit_code, 0) << example.errors;
  EXPECT_THAT(example.output, AllOf(HasSubstr("14 March 2026"), HasSubstr(" USD")));
}

// One request runs at a time, and this many are before the example's.
class BusyService {
 public:
  BusyService() : service_(kDemoModel, {"--sequences-max", "1"}) {
    for (int i = 0; service_.ready() && i < 4; ++i) {
      callers_.emplace_back([this] {
        v1::GenerateRequest request = OrderRequest(1500);
        request.mutable_sampling()->set_ignore_eos(true);
        Ask(service_.MakeClient().get(), request);
      });
    }
  }
  ~BusyService() {
    for (std::thread& caller : callers_) caller.join();
  }
  ServiceProcess& service() { return service_; }

 private:
  ServiceProcess service_;
  std::vector<std::thread> callers_;
};

TEST(ExampleTest, EndsAtItsDeadline) {
  if (!HasPythonGrpc()) GTEST_SKIP() << "needs Debian's python3-grpcio";
  BusyService busy;
  ASSERT_TRUE(busy.service().ready()) << busy.service().Story();
  const Finished example = RunToEnd(
      {"/usr/bin/python3", kExample, busy.service().address(), "Where is my order 48213?", "0.05"});
  EXPECT_EQ(example.exit_code, 1);
  EXPECT_THAT(example.errors, HasSubstr("DEADLINE_EXCEEDED")) << example.output;
}

TEST(ExampleTest, StopsAtAnInterruptAndSoDoesTheService) {
  if (!HasPythonGrpc()) GTEST_SKIP() << "needs Debian's python3-grpcio";
  BusyService busy;
  ASSERT_TRUE(busy.service().ready()) << busy.service().Story();
  const Process example({"/usr/bin/python3", kExample, busy.service().address()});
  // Its call is the fifth: four long ones and this one.
  ASSERT_TRUE(WaitUntil(20, [&] {
    return RunToEnd({kBinary, "status", "--address", busy.service().admin_address()})
               .output.find("5 open") != std::string::npos;
  })) << busy.service().Story();
  example.Signal(SIGINT);
  EXPECT_TRUE(WaitUntil(10, [&] {
    return busy.service().process().Output().find("CANCELLED") != std::string::npos;
  })) << busy.service().Story();
}

TEST(RunScriptTest, AnswersWithAPriceServesAndDrains) {
  const TemporaryFolder folder;
  const std::vector<std::string> command = {"env",
                                            "TUPPENCE_BINARY=" + kBinary,
                                            "TUPPENCE_PORT=" + HeldPort().port(),
                                            "TUPPENCE_ADMIN_PORT=" + HeldPort().port(),
                                            "TUPPENCE_USAGE_STORE=" + folder.path() + "/usage.db",
                                            "bash",
                                            std::string(TUPPENCE_SOURCE_DIR) + "/deploy/run.sh"};
  Process script(command);
  ASSERT_TRUE(WaitUntil(
      60, [&] { return script.Output().find("Serving until Ctrl-C") != std::string::npos; }))
      << script.Output() << script.Errors();
  EXPECT_THAT(script.Output(), HasSubstr("expected on 14 March 2026"));
  EXPECT_THAT(script.Errors(), ContainsRegex("cost 0\\.[0-9]{9} USD"));

  const Finished second = RunToEnd(command, 60);
  EXPECT_EQ(second.exit_code, 1);
  EXPECT_THAT(second.errors, HasSubstr("A service answers on port"));

  script.Signal(SIGTERM);  // as Ctrl-C, which a test's shell may have told its children to ignore
  EXPECT_EQ(script.Wait(30), 0) << script.Errors();
}

}  // namespace
}  // namespace tuppence
