// What the tokenizer's JSON files add to tokenizer.model: the special tokens with their lstrip and
// rstrip flags, how the space before a text is handled, bos and eos, and the chat template. Reads
// tokenizer.json, tokenizer_config.json, added_tokens.json and chat_template.jinja, whichever
// exist, and refuses files that contradict one another. Used by Tokenizer::Load only.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tuppence {

struct AddedToken {
  std::string content;
  bool special = true;
  bool lstrip = false;  // takes the white space before it
  bool rstrip = false;  // takes the white space after it
  std::string source;   // the file that names it, for error messages
};

// Which segments of a prompt get a space in front before they are encoded.
struct SpacePrefix {
  enum class Segments { kNone, kFirst, kEach };
  Segments segments = Segments::kEach;
  // Only where the segment does not start with a space already (Metaspace's way; Prepend and
  // SentencePiece add theirs in any case).
  bool unless_space = false;
};

struct AddedTokens {
  std::map<int32_t, AddedToken> tokens;                     // by id
  std::optional<SpacePrefix> space_prefix;                  // tokenizer.json's, if there is one
  std::vector<std::pair<std::string, int32_t>> vocabulary;  // tokenizer.json's pieces, if any
  std::string bos_token;                                    // empty: none named
  std::string eos_token;
  std::optional<bool> add_bos_token;
  std::string chat_template_source;
};

absl::StatusOr<AddedTokens> ReadAddedTokens(const std::string& folder);

}  // namespace tuppence
