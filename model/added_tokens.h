// What the tokenizer's JSON files add to tokenizer.model: the special tokens with their lstrip and
// rstrip flags, which segments get a space in front, bos and eos, and the chat template. Reads
// tokenizer.json, tokenizer_config.json, added_tokens.json and chat_template.jinja, whichever
// exist, and refuses files that give an id to two tokens or a token to two ids. Flags may differ
// between revisions of one file; tokenizer_config.json's then count, as in transformers. Used by
// Tokenizer::Load only.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace tuppence {

struct AddedToken {
  std::string content;
  bool special = true;
  bool lstrip = false;  // takes the white space before it
  bool rstrip = false;  // takes the white space after it
  std::string file;     // that names it, for error messages
};

// Which segments of a prompt get a space in front before they are encoded.
struct SpacePrefix {
  enum class Segments { kNone, kFirst, kEach };
  Segments segments = Segments::kEach;
  // Only where the segment does not start with a space already: Metaspace's way, where Prepend and
  // SentencePiece itself add theirs in any case.
  bool unless_space = false;
};

struct AddedTokens {
  std::map<int32_t, AddedToken> tokens;                     // by id
  std::optional<SpacePrefix> space_prefix;                  // tokenizer.json's
  std::vector<std::pair<std::string, int32_t>> vocabulary;  // tokenizer.json's pieces
  std::string bos_token;                                    // empty: none named
  std::string eos_token;
  std::optional<bool> adds_bos;
  std::string chat_template_source;
};

// UNIMPLEMENTED, naming what was found, for a tokenizer.json of another kind than SentencePiece
// BPE.
absl::StatusOr<AddedTokens> ReadAddedTokens(const std::string& folder);

}  // namespace tuppence
