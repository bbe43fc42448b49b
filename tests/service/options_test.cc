// Where a setting may come from, which source wins, and what is said of a bad one.
#include "service/options.h"

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/chat_template.h"
#include "service/part_options.h"

namespace tuppence {
namespace {

using ::testing::HasSubstr;

class OptionsTest : public ::testing::Test {
 protected:
  OptionsTest() {
    AddServeFlags(app_, &options_);
    file_ = std::filesystem::temp_directory_path() / absl::StrCat("tuppence_", getpid(), ".toml");
  }
  ~OptionsTest() override {
    for (const char* name : {"TUPPENCE_DRAIN_SECONDS", "TUPPENCE_PORT", "TUPPENCE_STRICT",
                             "TUPPENCE_CONFIG", "TUPPENCE_THREADS"}) {
      unsetenv(name);
    }
    std::filesystem::remove(file_);
  }

  void WriteFile(const std::string& text) { std::ofstream(file_) << text; }
  // "" or what was wrong.
  std::string Parse(std::vector<std::string> arguments) {
    DropServiceLinks();
    const auto with_file = WithConfigFile(app_, std::move(arguments));
    if (!with_file.ok()) return std::string(with_file.status().message());
    std::vector<std::string> reversed(with_file->rbegin(), with_file->rend());
    try {
      app_.parse(reversed);
    } catch (const CLI::ParseError& error) {
      return error.what();
    }
    return "";
  }

  CLI::App app_;
  ServeOptions options_;
  std::filesystem::path file_;
};

TEST_F(OptionsTest, DefaultsListenOnLoopbackOnly) {
  EXPECT_EQ(Parse({}), "");
  EXPECT_EQ(options_.host, "127.0.0.1");
  EXPECT_EQ(options_.http_host, "127.0.0.1");
  EXPECT_EQ(options_.http_port, -1) << "no HTTP door unless asked for";
  EXPECT_EQ(options_.admin_host, "127.0.0.1");
  EXPECT_EQ(options_.port, 8033);
  EXPECT_EQ(options_.admin_port, 8034);
}

TEST_F(OptionsTest, EveryPublishedChatTemplateCanBeChosen) {
  for (const std::string_view name : ChatTemplate::Names()) {
    EXPECT_EQ(Parse({"--chat-template", std::string(name)}), "");
    EXPECT_EQ(options_.model.chat_template, name);
  }
  EXPECT_EQ(Parse({"--chat-template", "none"}), "");
  EXPECT_THAT(Parse({"--chat-template", "phi-3"}), HasSubstr("phi-3-mini"));
}

TEST_F(OptionsTest, AddressesThatOtherMachinesReachAreNamed) {
  ServeOptions options;
  EXPECT_EQ(OpenAddresses(options), "");
  options.http_host = "0.0.0.0";
  EXPECT_EQ(OpenAddresses(options), "") << "that door is shut";
  options.http_port = 8000;
  EXPECT_EQ(OpenAddresses(options), "--http-host 0.0.0.0");
  options.host = "::1";
  options.admin_host = "10.0.0.7";
  EXPECT_EQ(OpenAddresses(options), "--http-host 0.0.0.0") << "the page is not there then";
  options.page = "on";
  options.host = "localhost";
  EXPECT_EQ(OpenAddresses(options), "--http-host 0.0.0.0, --admin-host 10.0.0.7");
}

TEST_F(OptionsTest, FlagWinsOverVariableAndVariableOverFile) {
  WriteFile("drain-seconds = 1\nthreads = 1\nstall-seconds = 1\n");
  setenv("TUPPENCE_DRAIN_SECONDS", "2", 1);
  setenv("TUPPENCE_THREADS", "2", 1);
  EXPECT_EQ(Parse({"--config", file_.string(), "--drain-seconds", "3"}), "");
  EXPECT_EQ(options_.drain_seconds, 3);
  EXPECT_EQ(options_.model.threads, 2);
  EXPECT_EQ(options_.stall_seconds, 1);
}

TEST_F(OptionsTest, FileMayBeNamedByItsVariableAndHoldSwitchesAndComments) {
  WriteFile("# ours\nstrict = true\nmodel = \"a b\"\nkv_memory = 4G\n");
  setenv("TUPPENCE_CONFIG", file_.c_str(), 1);
  EXPECT_EQ(Parse({}), "");
  EXPECT_TRUE(options_.strict);
  EXPECT_EQ(options_.model.model, "a b");
  EXPECT_EQ(options_.model.kv_memory_bytes, uint64_t{4} << 30);
}

TEST_F(OptionsTest, BadFilesAreNamed) {
  EXPECT_THAT(Parse({"--config", "/absent.toml"}), HasSubstr("--config /absent.toml"));
  WriteFile("drain-secnods = 1\n");
  EXPECT_THAT(Parse({"--config", file_.string()}), HasSubstr("\"drain-secnods\" is not a setting"));
  WriteFile("port = 99999\n");
  EXPECT_THAT(Parse({"--config", file_.string()}), HasSubstr("--port"));
}

TEST_F(OptionsTest, BadValuesNameTheFlagAndWhatIsAllowed) {
  EXPECT_THAT(Parse({"--port", "70000"}), HasSubstr("--port"));
  EXPECT_THAT(Parse({"--weights", "fp8"}), HasSubstr("bf16"));
  EXPECT_THAT(Parse({"--kv-memory", "lots"}), HasSubstr("--kv-memory"));
  EXPECT_THAT(Parse({"--drain-seconds", "-1"}), HasSubstr("--drain-seconds"));
  EXPECT_THAT(Parse({"--period-seconds", "0.001"}), HasSubstr("--period-seconds"));
  EXPECT_THAT(Parse({"--prot", "8033"}), HasSubstr("--prot"));
  setenv("TUPPENCE_PORT", "http", 1);
  EXPECT_THAT(Parse({}), HasSubstr("--port"));
}

TEST_F(OptionsTest, LinksThatKubernetesSetsAreNotOurPorts) {
  setenv("TUPPENCE_PORT", "tcp://10.0.0.1:8033", 1);
  EXPECT_EQ(Parse({}), "");
  EXPECT_EQ(options_.port, 8033);
}

TEST_F(OptionsTest, SizesHaveSuffixes) {
  EXPECT_EQ(Parse({"--kv-memory", "512M", "--message-bytes-max", "1MiB"}), "");
  EXPECT_EQ(options_.model.kv_memory_bytes, uint64_t{512} << 20);
  EXPECT_EQ(options_.message_bytes_max, uint64_t{1} << 20);
}

TEST_F(OptionsTest, EveryFlagHasItsVariableAndHelp) {
  for (const CLI::Option* option : app_.get_options()) {
    if (option->get_lnames()[0] == "help") continue;
    EXPECT_THAT(option->get_envname(), HasSubstr("TUPPENCE_")) << option->get_name();
    EXPECT_GT(option->get_description().size(), 10u) << option->get_name();
  }
}

}  // namespace
}  // namespace tuppence
