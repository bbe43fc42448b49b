// The books as their owner meets them: a service with a store, and the commands that read it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/end_to_end/service_process.h"

namespace tuppence {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;

// A thousand times a T4's price: few questions to a machine held for seconds cost more than the
// API.
constexpr char kCard[] =
    R"({"id": "first", "valid_from": "2020-01-01T00:00:00Z", "source": "list",
        "usd_per_hour": "526"})";
constexpr char kSpotCard[] =
    R"({"id": "spot", "valid_from": "2021-01-01T00:00:00Z", "source": "spot",
        "usd_per_hour": "158"})";

Finished Tuppence(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), kBinary);
  return RunToEnd(arguments);
}

class BooksTest : public ::testing::Test {
 protected:
  void WriteCards(const std::string& cards) {
    std::ofstream(cards_) << R"({"rate_cards": [)" << cards << "]}";
  }

  const TemporaryFolder folder_;
  const std::string store_ = folder_.path() + "/usage.db";
  const std::string cards_ = folder_.path() + "/cards.json";
};

TEST_F(BooksTest, AServicesBooksCloseInEveryCommand) {
  WriteCards(kCard);
  {
    ServiceProcess service(kDemoModel, {"--usage-store", store_, "--rate-cards", cards_,
                                        "--instance", "i-1", "--reference-price", "gpt-3.5-turbo"});
    ASSERT_TRUE(service.ready()) << service.Story();
    const auto client = service.MakeClient();
    Answered answer = Ask(client.get(), OrderRequest());
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    EXPECT_EQ(answer.last.cost().rate_card_id(), "first");
    EXPECT_GT(answer.last.cost().reference_nanousd(), 0);
    EXPECT_EQ(answer.last.cost().reference_id(), "gpt-3.5-turbo@2026-05-31");

    const auto told = [&](const std::string& words) {
      return WaitUntil(10,
                       [&] { return service.process().Errors().find(words) != std::string::npos; });
    };
    std::ofstream(cards_) << "no cards";
    service.process().Signal(SIGHUP);
    EXPECT_TRUE(told("prices stay as they are")) << service.Story();
    answer = Ask(client.get(), OrderRequest());
    EXPECT_EQ(answer.last.cost().rate_card_id(), "first");

    WriteCards(std::string(kCard) + "," + kSpotCard);
    service.process().Signal(SIGHUP);
    EXPECT_TRUE(told("rate card \"spot\"")) << service.Story();
    EXPECT_TRUE(WaitUntil(10, [&] {
      answer = Ask(client.get(), OrderRequest());
      return answer.last.cost().rate_card_id() == "spot";
    }));
    // Whoever gave up before the last message asks afterwards, of the service or of its store.
    v1::GenerateRequest longer = OrderRequest();
    longer.mutable_sampling()->set_max_tokens(1500);
    longer.mutable_sampling()->set_ignore_eos(true);
    auto hasty = service.MakeClient(0.3);
    answer = Ask(hasty.get(), longer);
    EXPECT_EQ(answer.status.code(), absl::StatusCode::kDeadlineExceeded) << answer.status;
    const Finished explained =
        Tuppence({"explain", answer.request_id, "--address", service.address()});
    EXPECT_EQ(explained.exit_code, 0) << explained.errors;
    EXPECT_THAT(explained.output,
                AllOf(HasSubstr("the caller's deadline passed"), HasSubstr("USD, rate card spot")));
    EXPECT_EQ(Tuppence({"explain", answer.request_id, "--usage-store", store_}).output,
              explained.output);
    service.process().Signal(SIGTERM);
    ASSERT_EQ(service.process().Wait(30), 0) << service.Story();
  }

  const Finished verify = Tuppence({"ledger", "verify", store_});
  EXPECT_EQ(verify.exit_code, 0) << verify.errors;
  EXPECT_THAT(verify.output, HasSubstr("every sum agrees"));

  const Finished invoice = Tuppence({"invoice", store_, "--format", "json"});
  ASSERT_EQ(invoice.exit_code, 0) << invoice.errors;
  const auto json = nlohmann::json::parse(invoice.output);
  EXPECT_EQ(json["rate_cards"], (std::vector<std::string>{"first", "spot"}));
  EXPECT_EQ(json["told"]["other_nanousd"], 0);

  const Finished replay =
      RunToEnd({"python3", TUPPENCE_SOURCE_DIR "/tests/replay_books.py", store_});
  ASSERT_EQ(replay.exit_code, 0) << replay.errors;
  const auto replayed = nlohmann::json::parse(replay.output);
  EXPECT_EQ(replayed["held_ns"], json["total"]["held_ns"]);
  EXPECT_EQ(replayed["cost_nanousd"], json["total"]["cost_nanousd"]);
  EXPECT_EQ(replayed["requests"], json["total"]["requests"]);

  const Finished table = Tuppence({"invoice", store_});
  EXPECT_THAT(table.output,
              AllOf(HasSubstr("total: rate x time held"), HasSubstr("rounding"),
                    HasSubstr("The API would have been cheaper by"), HasSubstr("Break-even")));
  const Finished half = Tuppence({"invoice", store_, "--reprice", cards_});
  EXPECT_THAT(half.output, HasSubstr("REPRICED"));

  const Finished exported = Tuppence({"store", "export", store_, "--since", "2020-01-01"});
  ASSERT_EQ(exported.exit_code, 0) << exported.errors;
  EXPECT_THAT(exported.output,
              AllOf(HasSubstr("\"id\":\"period:"), HasSubstr("\"id\":\"request:")));
}

TEST_F(BooksTest, CommandsSayWhatIsWrong) {
  const Finished none = Tuppence({"invoice", store_});
  EXPECT_EQ(none.exit_code, 1);
  EXPECT_THAT(none.errors, HasSubstr("--usage-store"));
  WriteCards("");
  for (const std::vector<std::string>& flags :
       {std::vector<std::string>{"--rate-cards", cards_},
        {"--machine", "toaster"},
        {"--machine-share", "2"},
        {"--reference-price", "toaster"},
        {"--machine", "aws-g4dn.xlarge", "--price-per-hour", "1"}}) {
    std::vector<std::string> arguments = {"serve", "--model", "null", "--check"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const Finished refused = Tuppence(arguments);
    EXPECT_EQ(refused.exit_code, 1) << flags[0] << flags[1];
    EXPECT_THAT(refused.errors, AnyOf(HasSubstr(flags[0]), HasSubstr(flags[1])));
  }
}

}  // namespace
}  // namespace tuppence
