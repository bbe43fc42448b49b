// model/utf8: what is valid, what is incomplete, what is replaced.
#include "model/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace tuppence {
namespace {

std::string Encoded(char32_t c) {
  std::string out;
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | c >> 12);
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | c >> 18);
    out += static_cast<char>(0x80 | (c >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
  return out;
}

TEST(Utf8Test, EveryCodepointButSurrogatesIsValidAndReadBack) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    const std::string text = Encoded(c);
    const bool surrogate = c >= 0xD800 && c <= 0xDFFF;
    ASSERT_EQ(IsValidUtf8(text), !surrogate) << static_cast<uint32_t>(c);
    if (surrogate) continue;
    const Utf8Character character = NextUtf8Character(text + "x");
    ASSERT_EQ(character.bytes, static_cast<int32_t>(text.size()));
    ASSERT_EQ(character.codepoint, c);
    for (size_t length = 1; length < text.size(); ++length) {
      ASSERT_EQ(NextUtf8Character(text.substr(0, length)).state, Utf8State::kIncomplete);
    }
  }
}

TEST(Utf8Test, RefusesOverlongSurrogatesAndTooLarge) {
  for (const char* text :
       {"\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xED\xBF\xBF",
        "\xF0\x80\x80\x80", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF",
        "\x80", "a\xC3", "\xE4\xB8", "\xE4\xB8x"}) {
    EXPECT_FALSE(IsValidUtf8(text)) << testing::PrintToString(text);
  }
  EXPECT_TRUE(IsValidUtf8(""));
  EXPECT_TRUE(IsValidUtf8(std::string("a\0b", 3)));
}

TEST(Utf8Test, InvalidBytesAreKnownBeforeTheCharacterCouldEnd) {
  // 0xE0 0x80 can never become valid: it must not wait for a third byte.
  EXPECT_EQ(NextUtf8Character("\xE0\x80").state, Utf8State::kInvalid);
  EXPECT_EQ(NextUtf8Character("\xF4\x90").state, Utf8State::kInvalid);
  EXPECT_EQ(NextUtf8Character("\xF0\x9F\x98").state, Utf8State::kIncomplete);
}

TEST(Utf8Test, EachByteOfNoCharacterBecomesOneReplacement) {
  std::string text;
  AppendValidUtf8("a\xF0\x9F\x98z\xE4\xB8\xAD\xE4\xB8", &text);
  EXPECT_EQ(text, "a\uFFFD\uFFFD\uFFFDz\u4E2D\uFFFD\uFFFD");
}

TEST(Utf8Test, SpacesAreUnicodesWhiteSpace) {
  int spaces = 0;
  for (char32_t c = 0; c <= 0x10FFFF; ++c) spaces += IsUnicodeSpace(c);
  EXPECT_EQ(spaces, 25);  // PropList.txt: White_Space, 25 codepoints
  EXPECT_TRUE(IsUnicodeSpace(0x3000));
  EXPECT_FALSE(IsUnicodeSpace(0x200B));  // zero width space is none
}

}  // namespace
}  // namespace tuppence
