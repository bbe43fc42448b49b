// What a user sees of the demo model: the answer in the terminal, its score, its sameness in
// company. One service answers all of them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/str_join.h"
#include "tests/end_to_end/service_process.h"

namespace tuppence {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;
using ::testing::Not;

class AnswerTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    service_ =
        new ServiceProcess(kDemoModel, {"--price-per-hour", "0.526", "--rate-card-id", "test"});
  }
  static void TearDownTestSuite() {
    delete service_;
    service_ = nullptr;
  }
  void SetUp() override { ASSERT_TRUE(service_->ready()) << service_->Story(); }

  static Finished RunChat(const std::vector<std::string>& flags) {
    std::vector<std::string> arguments = {kBinary, "chat", "--address", service_->address()};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    return RunToEnd(arguments);
  }

  static ServiceProcess* service_;
};

ServiceProcess* AnswerTest::service_ = nullptr;

TEST_F(AnswerTest, ChatStatesStatusAndDateOfTheRecordAndThePrice) {
  const Finished chat = RunChat({"--system", kOrderRecord, "--message", kOrderQuestion});
  EXPECT_EQ(chat.exit_code, 0) << chat.errors;
  EXPECT_THAT(chat.output, AllOf(HasSubstr("shipped"), HasSubstr("14 March 2026")));
  EXPECT_THAT(chat.errors,
              MatchesRegex("\\[first token [0-9.]+ ms, [0-9.]+ tokens/s, [0-9]+ tokens after "
                           "[0-9]+, cost 0\\.[0-9]{9} USD \\([0-9.]+ ms of the machine, rate card "
                           "test\\), request [0-9a-f]{32}\\]\n"));
}

TEST_F(AnswerTest, ChatKeepsTheConversationOfItsStandardInput) {
  const std::string command = "printf '%s\\n' 'Where is my order 48213?' 'Thank you!' | " +
                              kBinary + " chat --address " + service_->address() + " --system '" +
                              kOrderRecord + "'";
  const Finished chat = RunToEnd({"sh", "-c", command});
  EXPECT_EQ(chat.exit_code, 0) << chat.errors;
  EXPECT_THAT(chat.output, HasSubstr("14 March 2026"));
  // The second question stands after the first with its answer: a longer prompt.
  int first = 0;
  int second = 0;
  const size_t at = chat.errors.find("tokens after ");
  ASSERT_NE(at, std::string::npos) << chat.errors;
  const size_t next = chat.errors.find("tokens after ", at + 1);
  ASSERT_NE(next, std::string::npos) << chat.errors;
  first = std::atoi(chat.errors.c_str() + at + 13);
  second = std::atoi(chat.errors.c_str() + next + 13);
  EXPECT_GT(second, first);
}

TEST_F(AnswerTest, ChatTellsWhatIsWrongAndFails) {
  const Finished refused = RunChat({"--message", kOrderQuestion, "--temperature", "7"});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.errors, AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("temperature"),
                                    HasSubstr("request id: ")));
  EXPECT_THAT(refused.output, IsEmpty());

  const Finished nobody =
      RunToEnd({kBinary, "chat", "--address", "127.0.0.1:1", "--message", "Hi"});
  EXPECT_EQ(nobody.exit_code, 1);
  EXPECT_THAT(nobody.errors, AllOf(HasSubstr("UNAVAILABLE"), HasSubstr("is the service running")));
}

TEST_F(AnswerTest, CtrlCStopsTheAnswer) {
  // At temperature 2 a small model babbles on, mostly; an answer that ended first tells nothing.
  for (int seed = 1; seed <= 20; ++seed) {
    Process chat({kBinary, "chat", "--address", service_->address(), "--message", kOrderQuestion,
                  "--temperature", "2", "--seed", std::to_string(seed), "--max-tokens", "1900"});
    ASSERT_TRUE(WaitUntil(20, [&chat] { return !chat.Output().empty(); })) << chat.Errors();
    chat.Signal(SIGINT);
    const std::optional<int> exit_code = chat.Wait(10);
    if (chat.Errors().find("[interrupted]") == std::string::npos) continue;
    EXPECT_EQ(exit_code, 130) << chat.Errors();
    return;
  }
  FAIL() << "twenty answers ended before they could be stopped";
}

TEST_F(AnswerTest, ChatWithoutRateCardSaysSo) {
  ServiceProcess unpriced(kDemoModel);
  ASSERT_TRUE(unpriced.ready()) << unpriced.Story();
  const Finished chat =
      RunToEnd({kBinary, "chat", "--address", unpriced.address(), "--message", "Hello"});
  EXPECT_EQ(chat.exit_code, 0) << chat.errors;
  EXPECT_THAT(chat.errors, AllOf(HasSubstr("no rate card"), Not(HasSubstr("USD"))));
}

TEST_F(AnswerTest, ScoreIsTheSameFromTheServiceAndFromTheFolder) {
  const std::vector<std::vector<std::string>> prompts = {
      {"--text", "Your order has been shipped. Größe \xe2\x82\xac 12", "--top", "3"},
      {"--token-ids", "1,300,301,302,1500", "--top", "2"}};
  for (const std::vector<std::string>& prompt : prompts) {
    std::vector<std::string> remote = {kBinary, "score", "--json", "--address",
                                       service_->address()};
    std::vector<std::string> local = {kBinary, "score", "--json", "--model", kDemoModel};
    remote.insert(remote.end(), prompt.begin(), prompt.end());
    local.insert(local.end(), prompt.begin(), prompt.end());
    const Finished from_service = RunToEnd(remote);
    const Finished from_folder = RunToEnd(local);
    ASSERT_EQ(from_service.exit_code, 0) << from_service.errors;
    ASSERT_EQ(from_folder.exit_code, 0) << from_folder.errors;
    EXPECT_EQ(from_service.output, from_folder.output);

    const auto score = nlohmann::json::parse(from_service.output);
    const size_t tokens = score["tokens"].size();
    ASSERT_GE(tokens, 5u);
    EXPECT_TRUE(score["tokens"][0]["logprob"].is_null());
    double total = 0;
    for (size_t i = 1; i < tokens; ++i) total += score["tokens"][i]["logprob"].get<double>();
    EXPECT_DOUBLE_EQ(score["total_logprob"].get<double>(), total);
    EXPECT_NEAR(score["perplexity"].get<double>(), std::exp(-total / (tokens - 1)), 1e-9);
  }
}

// demo_model.json: transformers in double precision (tests/golden/make_demo_logprobs.py). With f32
// weights and pages the roundings are those of golden_test.cc's Tolerance: 5 layers, logits of an
// rms of about 5.
TEST_F(AnswerTest, ScoreOfTheDemoModelIsThatOfThePublishedImplementation) {
  constexpr double kTolerance = 4e-4;
  const auto golden = nlohmann::json::parse(
      ReadFile(std::string(TUPPENCE_SOURCE_DIR) + "/tests/golden/demo_model.json"));
  const std::string ids = absl::StrJoin(golden["token_ids"].get<std::vector<int>>(), ",");
  const Finished scored = RunToEnd({kBinary, "score", "--json", "--model", kDemoModel, "--weights",
                                    "f32", "--kv", "f32", "--token-ids", ids});
  ASSERT_EQ(scored.exit_code, 0) << scored.errors;
  const auto score = nlohmann::json::parse(scored.output);
  ASSERT_EQ(score["tokens"].size(), golden["token_ids"].size());
  for (size_t i = 1; i < score["tokens"].size(); ++i) {
    EXPECT_NEAR(score["tokens"][i]["logprob"].get<double>(),
                golden["logprobs"][i - 1].get<double>(), kTolerance)
        << "token " << i;
  }
}

TEST_F(AnswerTest, ScoreRefusesTwoPromptsOrNone) {
  EXPECT_NE(RunToEnd({kBinary, "score", "--address", service_->address()}).exit_code, 0);
  EXPECT_NE(RunToEnd({kBinary, "score", "--text", "a", "--token-ids", "1,2"}).exit_code, 0);
}

TEST_F(AnswerTest, GreedyAnswerIsTheSameAloneAndAmongSixteen) {
  const Answered alone = Ask(service_->MakeClient().get(), OrderRequest());
  ASSERT_TRUE(alone.status.ok()) << alone.status;
  ASSERT_FALSE(alone.token_ids.empty());
  std::vector<Answered> together(16);
  std::vector<std::thread> callers;
  for (size_t i = 0; i < together.size(); ++i) {
    callers.emplace_back([&together, i] {
      v1::GenerateRequest request = OrderRequest();
      // Half of them ask something else, so that the company differs in length and content.
      if (i % 2 == 1) {
        request.mutable_chat()->mutable_messages(1)->set_content("Hello number " +
                                                                 std::to_string(i));
        request.mutable_sampling()->set_temperature(1);
      }
      together[i] = Ask(service_->MakeClient().get(), request);
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (size_t i = 0; i < together.size(); ++i) {
    ASSERT_TRUE(together[i].status.ok()) << together[i].status;
    if (i % 2 == 1) continue;
    EXPECT_EQ(together[i].token_ids, alone.token_ids) << "caller " << i;
    EXPECT_EQ(together[i].text, alone.text) << "caller " << i;
  }
}

TEST_F(AnswerTest, HandWrittenQuestionsAreAnsweredRightWithoutAnInventedStatus) {
  const Finished check = RunToEnd({"/usr/bin/python3", "-c", "import grpc, google.protobuf"});
  if (check.exit_code != 0) GTEST_SKIP() << "needs Debian's python3-grpcio: " << check.errors;
  const Finished evaluation = RunToEnd(
      {"/usr/bin/python3", std::string(TUPPENCE_SOURCE_DIR) + "/deploy/demo_model/evaluate.py",
       "--address", service_->address()},
      300);
  EXPECT_EQ(evaluation.exit_code, 0) << evaluation.output << evaluation.errors;
}

}  // namespace
}  // namespace tuppence
