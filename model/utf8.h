// UTF-8: whether a text is valid, and one character at a time. Used by the tokenizer, the stream
// decoder and the validation of requests. Valid means as in RFC 3629: no surrogates, no overlong
// forms, nothing above U+10FFFF.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tuppence {

// What invalid bytes become.
inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

bool IsValidUtf8(std::string_view text);

enum class Utf8State { kValid, kIncomplete, kInvalid };
struct Utf8Character {
  Utf8State state;
  int32_t bytes;       // kValid: its length, 1 to 4; otherwise 1, the bytes that U+FFFD replaces
  char32_t codepoint;  // kValid only
};
// The character at the front of `bytes`. kIncomplete: more bytes could still make it valid.
// Requires: bytes is not empty.
Utf8Character NextUtf8Character(std::string_view bytes);

// Appends `bytes` to *text with U+FFFD for each byte that belongs to no valid character, as
// SentencePiece does.
void AppendValidUtf8(std::string_view bytes, std::string* text);

// Unicode's White_Space property: what the lstrip and rstrip of a special token take away.
bool IsUnicodeSpace(char32_t codepoint);

}  // namespace tuppence
