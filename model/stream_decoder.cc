// See stream_decoder.h.
#include "model/stream_decoder.h"

#include <algorithm>
#include <utility>

#include "model/check.h"
#include "model/utf8.h"

namespace tuppence {

StreamDecoder::StreamDecoder(const Tokenizer* tokenizer, StreamDecoderOptions options)
    : tokenizer_(tokenizer),
      include_stop_string_(options.include_stop_string),
      at_start_(options.drop_leading_space) {
  CHECK(tokenizer != nullptr);
  size_t longest = 0;
  for (std::string& text : options.stop_strings) {
    CHECK(!text.empty());
    CHECK(IsValidUtf8(text));
    longest = std::max(longest, text.size());
    std::vector<int32_t> borders = Borders(text);
    stops_.push_back({std::move(text), std::move(borders), 0});
  }
  partial_.reserve(64);  // longer than any published piece
  held_.reserve(longest + 4);
}

std::vector<int32_t> StreamDecoder::Borders(std::string_view text) {
  std::vector<int32_t> borders(text.size(), 0);
  for (size_t i = 1; i < text.size(); ++i) {
    int32_t border = borders[i - 1];
    while (border > 0 && text[i] != text[border]) border = borders[border - 1];
    borders[i] = text[i] == text[border] ? border + 1 : 0;
  }
  return borders;
}

// Takes one more byte of text; true when the stop string is complete.
bool StreamDecoder::Advance(char byte, Stop* stop) {
  int32_t& matched = stop->matched;
  while (matched > 0 && stop->text[matched] != byte) matched = stop->borders[matched - 1];
  if (stop->text[matched] == byte) ++matched;
  return matched == static_cast<int32_t>(stop->text.size());
}

bool StreamDecoder::Push(int32_t token_id, std::string* text) {
  CHECK(!stopped_);
  if (tokenizer_->IsSpecial(token_id)) return false;
  std::string_view bytes = tokenizer_->TokenBytes(token_id);
  if (at_start_ && tokenizer_->StartsWord(token_id)) bytes.remove_prefix(1);
  at_start_ = false;
  partial_ += bytes;
  PushPartial(/*at_end=*/false, text);
  return stopped_;
}

void StreamDecoder::Finish(std::string* text) {
  if (stopped_) return;
  PushPartial(/*at_end=*/true, text);
  if (stopped_) return;
  Show(held_.size(), text);
  stopped_ = true;
}

// Hands on every character of partial_, and U+FFFD for each byte that cannot become one.
void StreamDecoder::PushPartial(bool at_end, std::string* text) {
  size_t done = 0;
  while (done < partial_.size() && !stopped_) {
    const std::string_view rest = std::string_view(partial_).substr(done);
    const Utf8Character character = NextUtf8Character(rest);
    if (character.state == Utf8State::kIncomplete && !at_end) break;
    const bool valid = character.state == Utf8State::kValid;
    PushCharacter(valid ? rest.substr(0, character.bytes) : kReplacementCharacter, text);
    done += character.bytes;
  }
  partial_.erase(0, done);
}

void StreamDecoder::PushCharacter(std::string_view character, std::string* text) {
  held_ += character;
  size_t complete = 0;  // bytes of the longest stop string that ends here
  size_t possible = 0;  // bytes at the end that may become a stop string
  for (Stop& stop : stops_) {
    bool is_complete = false;
    // Valid UTF-8 cannot match across character borders, so only the last byte can complete it.
    for (const char byte : character) is_complete = Advance(byte, &stop);
    if (is_complete) complete = std::max(complete, stop.text.size());
    possible = std::max(possible, static_cast<size_t>(stop.matched));
  }
  if (complete == 0) {
    Show(held_.size() - possible, text);
    return;
  }
  Show(held_.size() - (include_stop_string_ ? 0 : complete), text);
  held_.clear();
  stopped_ = true;
}

void StreamDecoder::Show(size_t bytes, std::string* text) {
  text->append(held_, 0, bytes);
  held_.erase(0, bytes);
}

}  // namespace tuppence
