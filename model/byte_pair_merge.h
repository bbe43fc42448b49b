// Byte-pair merging as SentencePiece does it: a text starts as characters; the adjacent pair whose
// union is the piece with the highest score is joined, the leftmost among equals, until no pair is
// a piece. What is left and is no piece falls back to bytes. Used by Tokenizer only; knows nothing
// of special tokens, spaces or files. Immutable once built.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"

namespace tuppence {

enum class PieceUse : uint8_t {
  kNone,         // control, unknown: text never becomes it
  kNormal,       //
  kUnused,       // takes part in merges, then is split again into what it was joined from
  kUserDefined,  // found in the text before all merging, and never merged further
  kByte,         // stands for byte number `byte`
};

struct Piece {
  std::string text;  // UTF-8
  float score = 0;
  PieceUse use = PieceUse::kNone;
  uint8_t byte = 0;
};

class BytePairMerge {
 public:
  // The longest piece we take. The longest published one has 48 bytes; without a limit a crafted
  // file could make the table of pairs quadratic in its size.
  static constexpr size_t kPieceBytesMax = 1024;

  BytePairMerge() = default;
  // `pieces` in the order of their ids. Refuses duplicates, empty or over-long pieces, invalid
  // UTF-8, scores that are no numbers, and a set of byte pieces that is not complete.
  static absl::StatusOr<BytePairMerge> Build(const std::vector<Piece>& pieces);

  // Appends the ids of `text`, whose spaces are already "▁". Requires: valid UTF-8.
  void Encode(std::string_view text, std::vector<int32_t>* ids) const;

 private:
  // A symbol is a normal or unused piece, or a single character that occurs in one without being
  // one itself. Symbols below pieces_ are piece ids.
  static constexpr int32_t kNoSymbol = -1;

  struct Pair {
    uint64_t key;    // left symbol << 32 | right symbol
    int32_t merged;  // the symbol that they become; kNoSymbol in an empty slot
    int32_t rank;    // of its score, 0 the highest
  };
  struct Text;   // the symbols of a text while they are merged
  class Agenda;  // the pairs still to be merged, best first

  void AddCharacterSymbols(const std::vector<Piece>& pieces);
  void AddPairs(const std::vector<Piece>& pieces);
  void InsertPair(int32_t left, int32_t right, int32_t merged, int32_t rank);
  const Pair* FindPair(int32_t left, int32_t right) const;
  int32_t CharacterSymbol(char32_t codepoint) const;
  size_t UserDefinedAt(std::string_view text, int32_t* id) const;
  size_t SplitChunk(std::string_view text, Text* chunk) const;
  void MergeChunk(Text* chunk, Agenda* agenda) const;
  void AddPairAt(int32_t left, int32_t right, Text* chunk, Agenda* agenda) const;
  void EmitChunk(const Text& chunk, std::vector<int32_t>* ids) const;
  void EmitSymbol(int32_t symbol, const Text& chunk, std::vector<int32_t>* ids) const;

  int32_t pieces_ = 0;
  int32_t ranks_ = 0;
  std::vector<int32_t> symbol_bytes_;         // [symbols] length
  std::vector<PieceUse> uses_;                // [symbols] kNone for a character that is no piece
  std::array<int32_t, 256> byte_ids_{};       // the piece of each byte
  std::array<int32_t, 128> ascii_symbols_{};  // CharacterSymbol of the commonest, without a look-up
  absl::flat_hash_map<char32_t, int32_t> character_symbols_;
  std::vector<Pair> pairs_;  // open addressing; size a power of two
  uint64_t pairs_mask_ = 0;
  // User-defined pieces by first byte, the longest first.
  std::array<std::vector<std::pair<std::string, int32_t>>, 256> user_defined_;
  // No piece joins the end of one word with the space of the next, and none is unused: then words
  // can be merged one after another, in a cache's worth of memory, with the same result.
  bool words_are_apart_ = false;
};

}  // namespace tuppence
