// The engine with a tokenizer: text, stop strings and what belongs to neither.
#include "gtest/gtest.h"
#include "tests/scheduler/engine_harness.h"
#include "tests/support/tiny_checkpoint.h"
#include "tests/support/tiny_tokenizer.h"

namespace tuppence {
namespace {

// The fake device draws ids below kTestVocab, which in the tiny tokenizer are <unk>, <s>, </s> and
// the pieces of the bytes 0x00 to 0x5D: each token shows one character, or none.
class EngineTextTest : public ::testing::Test {
 protected:
  EngineTextTest() {
    const int32_t vocab = WriteTinyTokenizer(folder_.path()).vocab;
    auto loaded = Tokenizer::Load(folder_.path(), vocab);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    tokenizer_ = *loaded;
    harness_ = std::make_unique<EngineHarness>(SmallEngineOptions(), tokenizer_.get());
  }

  static Request TextRequest(uint64_t seed) {
    Request request = MakeRequest("text", 6, 40, seed);
    request.text_output = true;
    return request;
  }

  TemporaryFolder folder_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<EngineHarness> harness_;
};

TEST_F(EngineTextTest, TextIsWhatTheTokensDecodeTo) {
  for (uint64_t seed = 1; seed <= 5; ++seed) harness_->Submit(TextRequest(seed));
  harness_->Run();
  for (int32_t i = 0; i < 5; ++i) {
    harness_->ExpectWhole(i);
    const Received& received = harness_->received(i);
    EXPECT_EQ(received.text[0], tokenizer_->Decode(received.token_ids[0], /*skip_special=*/true));
    EXPECT_GT(received.text[0].size(), 20u);
  }
}

TEST_F(EngineTextTest, AStopStringEndsTheTextBeforeItAndItsTokensAreCounted) {
  const Expected expected = ExpectedAnswer(TextRequest(3), 0, harness_->options());
  const std::string text = tokenizer_->Decode(expected.token_ids, /*skip_special=*/true);
  Request request = TextRequest(3);
  const std::string stop = text.substr(10, 4);
  request.sampling.stop_strings = {stop};
  harness_->Submit(request);
  request.sampling.include_stop_string = true;
  harness_->Submit(request);
  harness_->Run();
  const Received& received = harness_->received(0);
  EXPECT_EQ(received.text[0], text.substr(0, text.find(stop)));
  EXPECT_EQ(received.finish_reasons[0], FinishReason::kStop);
  EXPECT_EQ(tokenizer_->Decode(received.token_ids[0], true),
            text.substr(0, text.find(stop) + stop.size()));
  EXPECT_EQ(received.end->usage.completion_tokens,
            static_cast<int64_t>(received.token_ids[0].size()));
  EXPECT_EQ(harness_->received(1).text[0], text.substr(0, text.find(stop) + stop.size()));
  harness_->ExpectAtRest();
}

TEST_F(EngineTextTest, AStopStringWorksWhereOnlyTokenIdsAreWanted) {
  const Expected expected = ExpectedAnswer(TextRequest(3), 0, harness_->options());
  const std::string text = tokenizer_->Decode(expected.token_ids, /*skip_special=*/true);
  Request request = TextRequest(3);
  request.text_output = false;
  request.sampling.stop_strings = {text.substr(10, 4)};
  harness_->Submit(request);
  harness_->Run();
  EXPECT_EQ(harness_->received(0).text[0], "");
  EXPECT_EQ(harness_->received(0).finish_reasons[0], FinishReason::kStop);
  EXPECT_LT(harness_->received(0).token_ids[0].size(), expected.token_ids.size());
}

TEST_F(EngineTextTest, AStopIdIsListedAndCountedButNotShown) {
  const Expected expected = ExpectedAnswer(TextRequest(4), 0, harness_->options());
  // The first token that shows something and did not occur before.
  size_t place = 8;
  while (expected.token_ids[place] < 40 ||
         std::find(expected.token_ids.begin(), expected.token_ids.begin() + place,
                   expected.token_ids[place]) != expected.token_ids.begin() + place) {
    ++place;
  }
  Request request = TextRequest(4);
  request.stop_ids = {expected.token_ids[place]};
  harness_->Submit(request);
  harness_->Run();
  harness_->ExpectWhole(0);
  std::vector<int32_t> shown = harness_->received(0).token_ids[0];
  EXPECT_EQ(shown.size(), place + 1);
  shown.pop_back();
  EXPECT_EQ(harness_->received(0).text[0], tokenizer_->Decode(shown, /*skip_special=*/true));
}

TEST_F(EngineTextTest, TextHeldBackForAStopStringComesWhenTheAnswerEnds) {
  const Expected expected = ExpectedAnswer(TextRequest(5), 0, harness_->options());
  const std::string text = tokenizer_->Decode(expected.token_ids, /*skip_special=*/true);
  Request request = TextRequest(5);
  request.sampling.stop_strings = {text.substr(text.size() - 2) + "never"};
  harness_->Submit(request);
  harness_->Run();
  EXPECT_EQ(harness_->received(0).text[0], text);
  EXPECT_EQ(harness_->received(0).finish_reasons[0], FinishReason::kLength);
}

}  // namespace
}  // namespace tuppence
