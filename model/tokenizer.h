// Text to token ids and back, as the checkpoint's own files say: a SentencePiece BPE model
// (tokenizer.model) and the tokens that were added to it (tokenizer.json, tokenizer_config.json,
// added_tokens.json). Immutable after Load, so every thread may share one. byte_pair_merge does the
// merging, added_tokens reads the JSON files; chat_template and stream_decoder build on this.
//
// Text never becomes a special or added token: "<|end|>" typed by a user is five ordinary pieces.
// Only the chat template, through PromptPart::special_id, and callers that send token ids can name
// one.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/added_tokens.h"
#include "model/byte_pair_merge.h"

namespace tuppence {

struct PromptPart {
  int32_t special_id = -1;  // a special token, or, below 0, plain text
  std::string text;
};

class Tokenizer {
 public:
  // Reads the tokenizer of the checkpoint in `folder`; `vocab` is the config's vocab_size.
  // NOT_FOUND: the folder has no tokenizer at all. UNIMPLEMENTED: it has one that is not
  // SentencePiece BPE with byte fallback (Phi-4's, for one), named in the message; with either the
  // service serves token ids only. Anything else: the files are wrong or contradict one another.
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> Load(const std::string& folder,
                                                               int32_t vocab);

  // The ids of plain text, without bos. Requires: valid UTF-8; the caller validates.
  std::vector<int32_t> Encode(std::string_view text) const;
  // The ids of a prompt as the published tokenizer.json gives them for the same string: each text
  // between special tokens is a segment of its own, which lstrip and rstrip of its neighbours cut.
  // Adjacent text parts are one segment. No bos is added: a template that wants one says so.
  std::vector<int32_t> EncodeParts(const std::vector<PromptPart>& parts) const;

  // Text of `ids` as SentencePiece gives it: the space that encoding put before the first word is
  // dropped, and each byte that is not UTF-8 becomes U+FFFD. Requires: 0 <= id < vocab.
  std::string Decode(std::span<const int32_t> ids, bool skip_special) const;
  // The bytes that a token adds in mid-text: " a" for the piece "▁a", one byte for a byte piece,
  // the content for a special token, nothing for an unmapped id. Requires: 0 <= id < vocab.
  std::string_view TokenBytes(int32_t id) const;
  // Whether the piece starts with "▁" and that space is dropped at the start of a text, where
  // encoding puts it. (The byte piece of a space does not: its space stays.)
  bool StartsWord(int32_t id) const;

  bool IsSpecial(int32_t id) const;  // unknown, bos, eos and the added tokens marked special
  bool IsMapped(int32_t id) const;   // false for the ids that only pad the logits
  std::optional<int32_t> FindSpecial(std::string_view content) const;
  std::optional<int32_t> bos_id() const { return bos_id_; }
  std::optional<int32_t> eos_id() const { return eos_id_; }
  bool adds_bos() const { return adds_bos_; }  // tokenizer_config.json's add_bos_token
  // One bit for each id, lowest first: [ceil(vocab / 64)].
  std::span<const uint64_t> mapped_ids() const { return mapped_ids_; }
  int32_t vocab() const { return static_cast<int32_t>(entries_.size()); }

  // Upper bound of the tokens that one text segment of `bytes` bytes can become: byte fallback
  // gives one token for each byte at most, and the space put before the first word is one more.
  static int64_t TokensUpperBound(int64_t bytes) { return bytes + 1; }

  // The checkpoint's own chat template, as Jinja text; empty if it has none.
  const std::string& chat_template_source() const { return chat_template_source_; }

 private:
  struct Entry {
    std::string bytes;  // see TokenBytes
    bool mapped = false;
    bool special = false;
    bool starts_word = false;
    bool lstrip = false;
    bool rstrip = false;
  };

  Tokenizer() = default;
  absl::Status SetPieces(std::vector<Piece> pieces, const AddedTokens& added);
  absl::Status SetAddedTokens(size_t pieces, const AddedTokens& added);
  absl::Status SetBosAndEos(const AddedTokens& added);
  void EncodeSegment(std::string_view text, bool first, std::vector<int32_t>* ids) const;

  std::vector<Entry> entries_;  // [vocab]
  BytePairMerge merge_;
  SpacePrefix space_prefix_;
  absl::flat_hash_map<std::string, int32_t> specials_;  // ids by content
  std::vector<uint64_t> mapped_ids_;
  std::optional<int32_t> bos_id_;
  std::optional<int32_t> eos_id_;
  bool adds_bos_ = false;
  std::string chat_template_source_;
};

}  // namespace tuppence
