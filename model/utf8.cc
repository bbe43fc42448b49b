// See utf8.h.
#include "model/utf8.h"

#include "model/check.h"

namespace tuppence {
namespace {

// What the first byte of a character fixes: its length, and the range of the second byte, which is
// where overlong forms, surrogates and codepoints above U+10FFFF show (RFC 3629, section 4).
struct Lead {
  int32_t bytes;  // 0: no character starts with this byte
  uint8_t second_min;
  uint8_t second_max;
};

Lead LeadOf(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Character NextUtf8Character(std::string_view bytes) {
  CHECK(!bytes.empty());
  const uint8_t first = static_cast<uint8_t>(bytes[0]);
  const Lead lead = LeadOf(first);
  if (lead.bytes == 0) return {Utf8State::kInvalid, 1, 0};
  if (lead.bytes == 1) return {Utf8State::kValid, 1, first};
  char32_t codepoint = first & (0x7F >> lead.bytes);
  for (int32_t i = 1; i < lead.bytes; ++i) {
    if (static_cast<size_t>(i) == bytes.size()) return {Utf8State::kIncomplete, 1, 0};
    const uint8_t byte = static_cast<uint8_t>(bytes[i]);
    const uint8_t low = i == 1 ? lead.second_min : 0x80;
    const uint8_t high = i == 1 ? lead.second_max : 0xBF;
    if (byte < low || byte > high) return {Utf8State::kInvalid, 1, 0};
    codepoint = codepoint << 6 | (byte & 0x3F);
  }
  return {Utf8State::kValid, lead.bytes, codepoint};
}

bool IsValidUtf8(std::string_view text) {
  while (!text.empty()) {
    if (static_cast<uint8_t>(text[0]) < 0x80) {
      text.remove_prefix(1);
      continue;
    }
    const Utf8Character character = NextUtf8Character(text);
    if (character.state != Utf8State::kValid) return false;
    text.remove_prefix(character.bytes);
  }
  return true;
}

void AppendValidUtf8(std::string_view bytes, std::string* text) {
  while (!bytes.empty()) {
    const Utf8Character character = NextUtf8Character(bytes);
    const bool valid = character.state == Utf8State::kValid;
    text->append(valid ? bytes.substr(0, character.bytes) : kReplacementCharacter);
    bytes.remove_prefix(character.bytes);
  }
}

bool IsUnicodeSpace(char32_t codepoint) {
  return (codepoint >= 0x09 && codepoint <= 0x0D) || codepoint == 0x20 || codepoint == 0x85 ||
         codepoint == 0xA0 || codepoint == 0x1680 || (codepoint >= 0x2000 && codepoint <= 0x200A) ||
         codepoint == 0x2028 || codepoint == 0x2029 || codepoint == 0x202F || codepoint == 0x205F ||
         codepoint == 0x3000;
}

}  // namespace tuppence
