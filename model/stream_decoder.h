// Turns the token ids of one answer into text that can be shown as it grows: whole characters only,
// and nothing that may turn out to be part of a stop string. The service owns one for each output
// sequence; copyable, so n answers can share a beginning.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer.h"

namespace tuppence {

struct StreamDecoderOptions {
  std::vector<std::string> stop_strings;  // valid UTF-8, none empty
  bool drop_leading_space = true;         // as Decode does; false when the text goes on a prompt's
  bool include_stop_string = false;
};

class StreamDecoder {
 public:
  // tokenizer: not null, outlives the decoder.
  StreamDecoder(const Tokenizer* tokenizer, StreamDecoderOptions options);

  // Appends to *text what can be shown now. True when a stop string is complete: the text then ends
  // before it (or with it, if asked for), what came after it in the same token is dropped, and
  // Finish, which then adds nothing, is the only call still allowed. Of several stop strings the
  // one that is complete first counts; of those that end together, the longest. Special tokens show
  // nothing. Requires: 0 <= token_id < vocab.
  bool Push(int32_t token_id, std::string* text);
  // The answer is over: shows what was held back. Bytes of an incomplete character become U+FFFD.
  void Finish(std::string* text);

  bool stopped() const { return stopped_; }

 private:
  // One stop string and how many of its bytes end the text so far (Knuth, Morris & Pratt 1977, so
  // that a long stop string costs constant time per byte).
  struct Stop {
    std::string text;
    std::vector<int32_t> borders;  // [text.size()] longest proper border of each prefix
    int32_t matched = 0;
  };

  static std::vector<int32_t> Borders(std::string_view text);
  static bool Advance(char byte, Stop* stop);
  void PushPartial(bool at_end, std::string* text);
  void PushCharacter(std::string_view character, std::string* text);
  void Show(size_t bytes, std::string* text);

  const Tokenizer* tokenizer_;
  std::vector<Stop> stops_;
  bool include_stop_string_;
  bool at_start_;  // the next word's space is the one that encoding added
  bool stopped_ = false;
  std::string partial_;  // bytes that may become a character
  std::string held_;     // characters that may become a stop string
};

}  // namespace tuppence
