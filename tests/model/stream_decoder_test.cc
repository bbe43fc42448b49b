// model/stream_decoder: what may be shown and when.
#include "model/stream_decoder.h"

#include <gtest/gtest.h>

#include <random>

#include "model/utf8.h"
#include "tests/support/tiny_checkpoint.h"
#include "tests/support/tiny_tokenizer.h"

namespace tuppence {
namespace {

class StreamDecoderTest : public testing::Test {
 protected:
  void SetUp() override {
    ids_ = WriteTinyTokenizer(folder_.path(), {"th", "the", "\u2581the", "he", "re", "here"});
    auto loaded = Tokenizer::Load(folder_.path(), ids_.vocab);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    tokenizer_ = *loaded;
  }

  static int32_t Byte(int byte) { return kFirstByte + byte; }

  // Pushes until the decoder stops; returns what was shown after each push, and Finish's last.
  std::vector<std::string> Show(const std::vector<int32_t>& ids, StreamDecoderOptions options) {
    StreamDecoder decoder(tokenizer_.get(), std::move(options));
    std::vector<std::string> shown;
    for (const int32_t id : ids) {
      std::string text;
      const bool stopped = decoder.Push(id, &text);
      EXPECT_TRUE(IsValidUtf8(text));
      shown.push_back(text);
      if (stopped) break;
    }
    std::string rest;
    decoder.Finish(&rest);
    shown.push_back(rest);
    return shown;
  }

  std::string Joined(const std::vector<int32_t>& ids, StreamDecoderOptions options = {}) {
    std::string all;
    for (const std::string& part : Show(ids, std::move(options))) all += part;
    return all;
  }

  TemporaryFolder folder_;
  TinyTokenizerIds ids_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

TEST_F(StreamDecoderTest, DropsTheFirstWordsSpaceOnceAndOnlyIfAsked) {
  const std::vector<int32_t> ids = tokenizer_->Encode(" the the");
  EXPECT_EQ(Joined(ids), " the the");
  const int32_t the = tokenizer_->Encode("the").at(0);
  EXPECT_EQ(Joined({the, the}), "the the");
  EXPECT_EQ(Joined({the, the}, {.stop_strings = {}, .drop_leading_space = false}), " the the");
  EXPECT_EQ(Joined({Byte(' '), the}), "  the");  // a byte piece is no word
}

TEST_F(StreamDecoderTest, HoldsBackAnUnfinishedCharacter) {
  const auto shown = Show({Byte(0xF0), Byte(0x9F), Byte(0x98), Byte(0x80)}, {});
  EXPECT_EQ(shown, (std::vector<std::string>{"", "", "", "\U0001F600", ""}));
}

TEST_F(StreamDecoderTest, ReplacesWhatCannotBecomeACharacter) {
  const int32_t here = tokenizer_->Encode("ahere").back();
  EXPECT_EQ(Joined({Byte(0xE4), Byte(0xB8), here}), "\uFFFD\uFFFDhere");
  EXPECT_EQ(Joined({Byte('a'), Byte(0xE4), Byte(0xB8)}), "a\uFFFD\uFFFD");
  EXPECT_EQ(Show({Byte(0xFF)}, {})[0], "\uFFFD");  // at once: no byte could help it
}

TEST_F(StreamDecoderTest, SpecialTokensShowNothing) {
  const int32_t the = tokenizer_->Encode("the").at(0);
  EXPECT_EQ(Joined({ids_.assistant, the, ids_.end, the, ids_.end_of_text}), "the the");
}

TEST_F(StreamDecoderTest, StopsAcrossTokenBordersAndNeverShowsAPartOfTheStop) {
  const auto shown = Show({Byte('a'), Byte('\n'), Byte('\n'), Byte('Q'), Byte(':'), Byte('x')},
                          {.stop_strings = {"\n\nQ:"}});
  EXPECT_EQ(shown, (std::vector<std::string>{"a", "", "", "", "", ""}));
}

TEST_F(StreamDecoderTest, ShowsWhatWasHeldBackWhenTheStopDoesNotCome) {
  const auto shown =
      Show({Byte('a'), Byte('\n'), Byte('\n'), Byte('z')}, {.stop_strings = {"\n\nQ"}});
  EXPECT_EQ(shown, (std::vector<std::string>{"a", "", "", "\n\nz", ""}));
  EXPECT_EQ(Joined({Byte('a'), Byte('\n')}, {.stop_strings = {"\n\nQ"}}), "a\n");
}

TEST_F(StreamDecoderTest, FindsAStopThatBeginsInsideAFailedOne) {
  EXPECT_EQ(Joined({Byte('a'), Byte('a'), Byte('a'), Byte('b')}, {.stop_strings = {"aab"}}), "a");
}

TEST_F(StreamDecoderTest, StopInsideAToken) {
  const int32_t here = tokenizer_->Encode("ahere").back();
  ASSERT_EQ(tokenizer_->TokenBytes(here), "here");
  EXPECT_EQ(Joined({Byte('x'), here, here}, {.stop_strings = {"er"}}), "xh");
}

TEST_F(StreamDecoderTest, TheStopThatEndsFirstCountsThenTheLongest) {
  const std::vector<int32_t> ids = {Byte('a'), Byte('b'), Byte('c'), Byte('d')};
  EXPECT_EQ(Joined(ids, {.stop_strings = {"bcd", "bc"}}), "a");
  EXPECT_EQ(Joined(ids, {.stop_strings = {"c", "abc"}}), "");
  EXPECT_EQ(Joined(ids, {.stop_strings = {"abcd", "b"}}), "a");
}

TEST_F(StreamDecoderTest, ShowsTheStopIfAskedFor) {
  const int32_t here = tokenizer_->Encode("ahere").back();
  EXPECT_EQ(
      Joined({Byte('x'), here},
             {.stop_strings = {"er"}, .drop_leading_space = true, .include_stop_string = true}),
      "xher");
}

TEST_F(StreamDecoderTest, StopsOnCharactersThatAreSplitOverTokens) {
  EXPECT_EQ(Joined({Byte('a'), Byte(0xE4), Byte(0xB8), Byte(0xAD), Byte('b')},
                   {.stop_strings = {"\u4E2D"}}),
            "a");
  // A replacement character may be a stop string too.
  EXPECT_EQ(Joined({Byte('a'), Byte(0xFF), Byte('b')}, {.stop_strings = {"\uFFFD"}}), "a");
}

TEST_F(StreamDecoderTest, ACopyGoesItsOwnWay) {
  StreamDecoder one(tokenizer_.get(), {.stop_strings = {"ab"}});
  std::string first;
  EXPECT_FALSE(one.Push(Byte('a'), &first));
  StreamDecoder other = one;
  std::string second;
  EXPECT_TRUE(one.Push(Byte('b'), &first));
  EXPECT_FALSE(other.Push(Byte('c'), &second));
  EXPECT_EQ(first, "");
  EXPECT_EQ(second, "ac");
}

// The whole text, searched naively, is the truth.
TEST_F(StreamDecoderTest, AgreesWithASearchInTheWholeTextOnRandomTokens) {
  const uint32_t seed = 7;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  const std::vector<std::string> stops = {"ab", "aab", "ba\u00E9", "\u00E9\u00E9", "bbbb"};
  for (int round = 0; round < 3000; ++round) {
    std::vector<int32_t> ids;
    for (uint32_t i = random() % 24; i > 0; --i) {
      const int bytes[] = {'a', 'a', 'b', 'b', 0xC3, 0xA9, 0xE4, 0xB8, 0xAD};
      ids.push_back(Byte(bytes[random() % 9]));
    }
    StreamDecoderOptions options;
    for (const std::string& stop : stops) {
      if (random() % 3 == 0) options.stop_strings.push_back(stop);
    }
    const std::string whole = tokenizer_->Decode(ids, true);
    std::string expected = whole;
    for (size_t end = 1; end <= whole.size() && expected == whole; ++end) {
      for (const std::string& stop : options.stop_strings) {
        if (!std::string_view(whole).substr(0, end).ends_with(stop)) continue;
        const std::string cut = whole.substr(0, end - stop.size());
        if (cut.size() < expected.size()) expected = cut;
      }
    }
    ASSERT_EQ(Joined(ids, options), expected) << "round " << round;
  }
}

}  // namespace
}  // namespace tuppence
