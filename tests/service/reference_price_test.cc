// What a model API would have asked.
#include "service/reference_price.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace tuppence {
namespace {

using ::testing::HasSubstr;

std::string Entry(const std::string& more) {
  return absl::StrCat(
      R"({"name": "api", "model": "An API", "source": "its page", "date": "2026-11-01", )", more,
      R"("usd_per_million_tokens": {"input": "0.50", "cached_input": "0.25", "output": "1.50"}})");
}

TEST(ReferencePriceTest, CountsInTheReferencesTokens) {
  const auto plain = ParseReferencePrice(Entry(""));
  ASSERT_TRUE(plain.ok()) << plain.status();
  // 600 x 500 + 400 x 250 + 100 x 1500 nano-USD.
  EXPECT_EQ(plain->NanoUsd(1000, 400, 100), 550'000);
  EXPECT_EQ(plain->id(), "api@2026-11-01,unadjusted");
  const auto adjusted = ParseReferencePrice(Entry(R"("tokens_ratio": "1.10", )"));
  ASSERT_TRUE(adjusted.ok()) << adjusted.status();
  EXPECT_EQ(adjusted->NanoUsd(1000, 400, 100), 500'000);
  EXPECT_EQ(adjusted->id(), "api@2026-11-01");
}

TEST(ReferencePriceTest, TheTableStatesThePublishedRatio) {
  const auto turbo = FindReferencePrice("gpt-3.5-turbo");
  ASSERT_TRUE(turbo.ok()) << turbo.status();
  EXPECT_TRUE(turbo->adjusted);
  EXPECT_EQ(turbo->tokens_ratio_ppm, 1'190'000);
  EXPECT_EQ(turbo->NanoUsd(1190, 0, 119), 1000 * 500 + 100 * 1500);
  const auto mini = FindReferencePrice("gpt-4o-mini");
  ASSERT_TRUE(mini.ok()) << mini.status();
  EXPECT_FALSE(mini->adjusted);
}

TEST(ReferencePriceTest, RefusesWhatIsNotRight) {
  EXPECT_THAT(std::string(FindReferencePrice("no-such-model").status().message()),
              HasSubstr("gpt-4o-mini"));
  const std::pair<std::string, const char*> wrong[] = {
      {Entry(R"("tokens_ratio": "0", )"), "tokens_ratio"},
      {Entry(R"("token_ratio": "1.2", )"), "\"token_ratio\" is not known"},
      {R"({"name": "a", "model": "b", "source": "c", "date": "yesterday",
           "usd_per_million_tokens": {}})",
       "date"},
      {R"({"name": "a", "model": "b", "source": "c", "date": "2026-11-01"})",
       "usd_per_million_tokens"}};
  for (const auto& [text, message] : wrong) {
    EXPECT_THAT(std::string(ParseReferencePrice(text).status().message()), HasSubstr(message));
  }
}

}  // namespace
}  // namespace tuppence
