// What the machine costs: files of rate cards, the table of public prices, and when which is in
// force.
#include "service/rate_cards.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <limits>

#include "absl/strings/str_cat.h"
#include "service/rate_source.h"
#include "tests/service/made_store.h"

namespace tuppence {
namespace {

using ::testing::HasSubstr;

constexpr char kTwoCards[] = R"({"rate_cards": [
  {"id": "november", "valid_from": "2026-11-01T00:00:00+01:00", "source": "effective",
   "components": {"machine": "0.421", "disk": 0.011}},
  {"id": "october", "valid_from": "2026-10-01T00:00:00Z", "source": "list",
   "valid_to": "2026-10-31T23:00:00Z", "usd_per_hour": "0.526"}]})";

std::string Card(const std::string& id, const std::string& from, const std::string& more) {
  return absl::StrCat(R"({"id": ")", id, R"(", "valid_from": ")", from, R"(", "source": "list", )",
                      more, "}");
}
std::string File(const std::string& cards) {
  return absl::StrCat(R"({"rate_cards": [)", cards, "]}");
}

TEST(RateCardsTest, ACardIsValidUntilTheNextBegins) {
  const auto cards = RateCards::Parse(kTwoCards);
  ASSERT_TRUE(cards.ok()) << cards.status();
  const int64_t change = Utc("2026-10-31T23:00:00Z");
  EXPECT_FALSE(cards->At(Utc("2026-09-30T23:59:59Z")).known());
  EXPECT_EQ(cards->At(change - 1).id, "october");
  EXPECT_EQ(cards->At(change - 1).micro_usd_per_hour, 526'000);
  EXPECT_EQ(cards->At(change).id, "november");
  EXPECT_EQ(cards->At(change).micro_usd_per_hour, 432'000);
  EXPECT_EQ(cards->NextChange(change - 1), change);
  EXPECT_EQ(cards->NextChange(change), std::numeric_limits<int64_t>::max());
}

TEST(RateCardsTest, RefusesWhatIsNotRightAndSaysWhere) {
  const std::string price = R"("usd_per_hour": "0.5")";
  const std::string day1 = "2026-11-01T00:00:00Z";
  const std::string day2 = "2026-11-02T00:00:00Z";
  const std::string ends = R"("valid_to": "2026-11-01T12:00:00Z", )";
  const std::string ends_late = R"("valid_to": "2026-11-02T12:00:00Z", )";
  const std::pair<std::string, const char*> wrong[] = {
      {File(Card("a", day1, ends + price) + "," + Card("b", day2, price)), "leave a gap"},
      {File(Card("a", day1, ends_late + price) + "," + Card("b", day2, price)), "overlap"},
      {File(Card("a", day1, price) + "," + Card("b", day1, price)), "overlap"},
      {File(Card("a", day1, price) + "," + Card("a", day2, price)), "stands twice"},
      {File(Card("a", "2026-11-01T00:00:00", price)), "offset"},
      {File(Card("a", "2026-11-01", price)), "offset"},
      {File(Card("a", day1, R"("usd_per_hour": "0.0000005")")), "micro-dollars"},
      {File(Card("a", day1, R"("usd_per_hour": "-1")")), "out of range"},
      {File(Card("a", day1, R"("usd_per_hour": 1, "components": {"x": 1})")), "either"},
      {File(Card("a", day1, R"("usd_per_huor": 1)")), "\"usd_per_huor\" is not known"},
      {File(R"({"id": "a", "valid_from": "2026-11-01T00:00:00Z", "source": "guess",
                "usd_per_hour": 1})"),
       "list, effective or spot"},
      {R"({"rate_cards": []})", "at least one card"},
      {"{", ""}};
  for (const auto& [text, message] : wrong) {
    const auto cards = RateCards::Parse(text);
    EXPECT_FALSE(cards.ok()) << text;
    EXPECT_THAT(std::string(cards.status().message()), HasSubstr(message)) << text;
  }
}

TEST(RateCardsTest, MachinesHaveListPricesAndUnknownOnesTheListOfNames) {
  const auto card = MachineCard("aws-g4dn.xlarge");
  ASSERT_TRUE(card.ok()) << card.status();
  EXPECT_EQ(card->micro_usd_per_hour, 526'000);
  EXPECT_EQ(card->source, "list");
  EXPECT_THAT(std::string(MachineCard("toaster").status().message()),
              HasSubstr("aws-g4dn.xlarge, "));
}

TEST(RateCardsTest, SharesAreAboveZeroAndAtMostOne) {
  EXPECT_EQ(*ParseMachineShare("0.25"), 250'000);
  EXPECT_EQ(*ParseMachineShare("1"), 1'000'000);
  for (const char* text : {"0", "1.1", "-0.5", "half", "0.1234567", ""}) {
    EXPECT_FALSE(ParseMachineShare(text).ok()) << text;
  }
}

class RateSourceTest : public ::testing::Test {
 protected:
  void Write(const std::string& text) { std::ofstream(path_) << text; }
  static RateOptions FileOptions(const std::string& path) {
    RateOptions options;
    options.rate_cards = path;
    options.machine_share = "0.5";
    return options;
  }

  const std::string path_ = ::testing::TempDir() + "/rate_cards.json";
  const int64_t now_ = Utc("2026-11-10T00:00:00Z");
};

TEST_F(RateSourceTest, ABadFileLeavesTheOldCardsInForce) {
  Write(kTwoCards);
  auto rates = RateSource::Open(FileOptions(path_), now_);
  ASSERT_TRUE(rates.ok()) << rates.status();
  const RateCard before = rates->At(now_);
  EXPECT_EQ(before.machine_share_ppm, 500'000);
  std::string changed = kTwoCards;
  changed.replace(changed.find("0.421"), 5, "0.422");
  for (const std::string& bad :
       {std::string("no json"), changed,
        File(Card("later", "2026-12-01T00:00:00Z", R"("usd_per_hour": 1)"))}) {
    Write(bad);
    EXPECT_FALSE(rates->Reload(now_).ok()) << bad;
    EXPECT_EQ(rates->At(now_), before);
  }
  Write(changed);
  EXPECT_THAT(std::string(rates->Reload(now_).message()), HasSubstr("cannot change"));
  std::string longer = kTwoCards;
  longer.replace(longer.find("[") + 1, 0,
                 Card("next", "2026-11-11T00:00:00Z", R"("usd_per_hour": "0.4")") + ",");
  Write(longer);
  ASSERT_TRUE(rates->Reload(now_).ok());
  EXPECT_EQ(rates->At(now_), before);
  EXPECT_EQ(rates->NextChange(now_), Utc("2026-11-11T00:00:00Z"));
  EXPECT_EQ(rates->At(rates->NextChange(now_)).id, "next");
}

TEST_F(RateSourceTest, WithoutAPriceThereIsAShareAndNoRate) {
  RateOptions options;
  options.machine_share = "0.25";
  const auto rates = RateSource::Open(options, now_);
  ASSERT_TRUE(rates.ok());
  EXPECT_FALSE(rates->At(now_).known());
  EXPECT_EQ(rates->At(now_).machine_share_ppm, 250'000);
  EXPECT_THAT(rates->Describe(now_), HasSubstr("no rate card"));
}

TEST_F(RateSourceTest, OnePriceAtATime) {
  RateOptions options;
  options.price_per_hour = 0.526;
  EXPECT_EQ(RateSource::Open(options, now_)->At(now_).id, "price-0.526");
  options.machine = "aws-g4dn.xlarge";
  EXPECT_THAT(std::string(RateSource::Open(options, now_).status().message()),
              HasSubstr("use one"));
}

}  // namespace
}  // namespace tuppence
