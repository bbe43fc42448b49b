// How the program refuses to start, and how it ends: one clear line and an exit code.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <thread>

#include "tests/end_to_end/service_process.h"

namespace tuppence {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

Finished RunServe(const std::string& model, const std::vector<std::string>& flags = {}) {
  std::vector<std::string> arguments = {kBinary,  "serve", "--model",      model,
                                        "--port", "0",     "--admin-port", "0"};
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  return RunToEnd(arguments, 20);
}

// The one line that says why; "" when there is not exactly one.
std::string ErrorLine(const std::string& log) {
  std::string line;
  size_t start = 0;
  int count = 0;
  while (start < log.size()) {
    const size_t end = std::min(log.find('\n', start), log.size());
    const std::string current = log.substr(start, end - start);
    if (current.find(" error: ") != std::string::npos) {
      line = current;
      ++count;
    }
    start = end + 1;
  }
  return count == 1 ? line : "";
}

TEST(StartTest, RefusesAPortInUse) {
  const HeldPort held;
  ASSERT_EQ(listen(held.socket(), 1), 0);
  const std::string port = held.port();
  const std::pair<const char*, const char*> doors[] = {{"--port", "0"}, {"--admin-port", "0"}};
  for (const auto& [flag, unused] : doors) {
    // A flag given twice: the last would win or be refused; so each door gets its own command.
    std::vector<std::string> arguments = {kBinary, "serve", "--model", "null", flag, port};
    arguments.push_back(std::string(flag) == "--port" ? "--admin-port" : "--port");
    arguments.push_back(unused);
    const Finished refused = RunToEnd(arguments, 20);
    EXPECT_EQ(refused.exit_code, 1) << refused.errors;
    EXPECT_THAT(ErrorLine(refused.errors), AllOf(HasSubstr(port), HasSubstr("in use")))
        << refused.errors;
  }
}

TEST(StartTest, RefusesAMissingFolder) {
  const Finished refused = RunServe("/nowhere/at/all");
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(ErrorLine(refused.errors), HasSubstr("/nowhere/at/all")) << refused.errors;
}

TEST(StartTest, RefusesATruncatedModelFile) {
  const TemporaryFolder folder;
  const std::string copy = folder.path() + "/model";
  std::filesystem::copy(kDemoModel, copy);
  const std::string weights = copy + "/model.safetensors";
  const auto bytes = std::filesystem::file_size(weights);
  for (const auto left : {bytes - 1, bytes / 2, uintmax_t{7}, uintmax_t{0}}) {
    std::filesystem::resize_file(weights, left);
    const Finished refused = RunServe(copy);
    EXPECT_EQ(refused.exit_code, 1) << left << " bytes of " << bytes;
    EXPECT_THAT(ErrorLine(refused.errors), HasSubstr("model.safetensors")) << refused.errors;
  }
}

TEST(StartTest, RefusesTooSmallKvMemoryWithTheNumbers) {
  const Finished refused = RunServe(kDemoModel, {"--kv-memory", "1024"});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(ErrorLine(refused.errors), HasSubstr("--kv-memory")) << refused.errors;
}

// Files are held to no bytes at all, which is what a full disk comes to; the kernel's device that
// is always full stands for it too.
TEST(StartTest, RefusesAFullDiskWithTheWayOut) {
  const TemporaryFolder folder;
  // What it says goes through a pipe: a file would be held to no bytes as well.
  const std::string serve =
      "(ulimit -f 0; exec " + kBinary + " serve --model null --port 0 --admin-port 0 ";
  for (const std::string& flags :
       {"--usage-store " + folder.path() + "/usage.db", std::string("--write-trace /dev/full"),
        "--http-port 0 --files-dir " + folder.path() + "/files"}) {
    const Finished refused =
        RunToEnd({"/bin/bash", "-c", serve + flags + ") 2>&1 | cat; exit ${PIPESTATUS[0]}"}, 20);
    EXPECT_EQ(refused.exit_code, 1) << flags << "\n" << refused.output;
    EXPECT_THAT(ErrorLine(refused.output), HasSubstr("disk")) << flags << "\n" << refused.output;
  }
}

TEST(StartTest, CheckPrintsSettingsAndThePlanAndLeavesNothingBehind) {
  const TemporaryFolder folder;
  const std::string store = folder.path() + "/usage.db";
  const std::string files = folder.path() + "/files";
  const std::string trace = folder.path() + "/trace.csv";
  const Finished checked = RunServe(
      kDemoModel, {"--check", "--usage-store", store, "--http-port", "0", "--files-dir", files,
                   "--write-trace", trace, "--weights", "int8", "--weights-cache", folder.path()});
  EXPECT_EQ(checked.exit_code, 0) << checked.errors;
  EXPECT_THAT(checked.output, AllOf(HasSubstr("kv-memory = "), HasSubstr("port = 0\n"),
                                    HasSubstr("usage-store = " + store)));
  EXPECT_THAT(checked.errors, AllOf(HasSubstr("keys and values"), HasSubstr("together"),
                                    HasSubstr("everything was checked")));
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(StartTest, CheckFindsWhatWouldKeepServeFromStarting) {
  const TemporaryFolder folder;
  const std::pair<std::vector<std::string>, std::string> bad[] = {
      {{"--usage-store", folder.path() + "/missing/usage.db"}, "make the folder"},
      {{"--usage-store", std::string(kDemoModel) + "/config.json"}, "not a usage store"},
      {{"--host", "203.0.113.1"}, "give --host an address of this machine"},
      {{"--admin-host", "here"}, "give --admin-host an address of this machine"},
      {{"--http-port", "0", "--http-host", "203.0.113.1"}, "give --http-host an address"},
      {{"--files-dir", folder.path()}, "open it with --http-port"},
      {{"--http-port", "0", "--files-dir", folder.path() + "/missing/files"}, "make the folder"},
      {{"--http-port", "0", "--files-dir", std::string(kDemoModel) + "/config.json"},
       "cannot be written"},
      {{"--tls-cert", "missing.pem", "--tls-key", "missing.pem"}, "missing.pem"},
      {{"--rate-cards", "missing.json"}, "missing.json"},
      {{"--tenants", "missing.json"}, "missing.json"},
      {{"--write-trace", folder.path() + "/missing/trace.csv"}, "make the folder"},
      {{"--write-trace", folder.path()}, "give a file that can be"},
  };
  for (auto [flags, words] : bad) {
    flags.push_back("--check");
    const Finished refused = RunServe(kDemoModel, flags);
    EXPECT_EQ(refused.exit_code, 1) << words;
    EXPECT_THAT(ErrorLine(refused.errors), HasSubstr(words)) << refused.errors;
  }
}

TEST(StartTest, WithoutKeysItSaysWhoMayCall) {
  ServiceProcess own("null", {"--http-port", "0"});
  ASSERT_TRUE(own.ready()) << own.Story();
  EXPECT_THAT(own.Story(), HasSubstr("no --keys: nobody needs one, and this machine alone may"));
  ServiceProcess open("null", {"--host", "0.0.0.0"});
  ASSERT_TRUE(open.ready()) << open.Story();
  EXPECT_THAT(open.Story(), HasSubstr("no --keys: whoever reaches --host 0.0.0.0 may use"));
}

TEST(StopTest, SigtermDrainsWhatRunsAndExitsZero) {
  ServiceProcess service(kDemoModel);
  ASSERT_TRUE(service.ready()) << service.Story();
  const std::unique_ptr<Client> client = service.MakeClient();
  v1::GenerateRequest request = OrderRequest(300);
  request.mutable_sampling()->set_ignore_eos(true);
  std::atomic<bool> started = false;
  absl::Status status;
  v1::GenerateResponse last;
  std::thread caller([&] {
    status = client->Generate(request, [&](const v1::GenerateResponse& message) {
      started = true;
      last = message;
    });
  });
  EXPECT_TRUE(WaitUntil(10, [&started] { return started.load(); }));
  service.process().Signal(SIGTERM);
  caller.join();
  // What ran was finished, with usage and cost; and only then did the service end.
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(last.usage().completion_tokens(), 300);
  EXPECT_EQ(service.process().Wait(20), 0) << service.Story();
  EXPECT_FALSE(Ask(client.get(), OrderRequest()).status.ok());
}

TEST(StopTest, TheRestEndsUnavailableWhenTheDrainTimeIsOver) {
  ServiceProcess service(kDemoModel, {"--drain-seconds", "0.05"});
  ASSERT_TRUE(service.ready()) << service.Story();
  const std::unique_ptr<Client> client = service.MakeClient();
  v1::GenerateRequest request = OrderRequest(1900);
  request.mutable_sampling()->set_ignore_eos(true);
  bool signalled = false;
  const absl::Status status = client->Generate(request, [&](const v1::GenerateResponse&) {
    if (!signalled) service.process().Signal(SIGTERM);
    signalled = true;
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_EQ(service.process().Wait(20), 0) << service.Story();
}

}  // namespace
}  // namespace tuppence
