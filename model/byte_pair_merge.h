// Byte-pair merging as SentencePiece does it: a text starts as characters; the adjacent pair whose
// union is the piece with the highest score is joined, the leftmost among equals, until no pair is
// a piece. What is left and is no piece falls back to bytes. Used by Tokenizer only; knows nothing
// of special tokens, spaces or files. Immutable once built. pair_agenda.h orders the pairs.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/pair_agenda.h"

namespace tuppence {

enum class PieceUse : uint8_t {
  kNone,         // control, unknown: text never becomes it
  kNormal,       // a result of merges
  kUnused,       // takes part in merges, then is split again into what it was joined from
  kUserDefined,  // found in the text before all merging, and never merged further
  kByte,         // stands for the byte `byte`
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
  static absl::StatusOr<BytePairMerge> Build(std::span<const Piece> pieces);

  // Appends the ids of `text`, whose spaces are already "▁". Requires: valid UTF-8.
  void Encode(std::string_view text, std::vector<int32_t>* ids) const;

 private:
  // A symbol is what a stretch of text may be while it is merged: a piece (its id), or a single
  // character that occurs in pieces without being one (numbers from pieces_ on), or neither.
  static constexpr int32_t kNoSymbol = -1;
  static constexpr int32_t kJoined = -2;  // became part of the symbol to its left

  struct Symbol {
    int32_t previous;  // index in Chunk::symbols; -1 at the start
    int32_t next;      // -1 at the end
    int32_t symbol;
    int32_t offset;  // of its first byte in the chunk
  };
  // A stretch of text that is merged at once, with all it needs, reused from chunk to chunk.
  struct Chunk {
    std::string_view text;
    std::vector<Symbol> symbols;
    PairAgenda agenda;
    // For unused pieces: what each was last looked up from.
    absl::flat_hash_map<int32_t, std::pair<int32_t, int32_t>> joined_from;
    std::vector<int32_t> splitting;
  };
  struct Pair {
    uint64_t key = 0;            // left symbol << 32 | right symbol
    int32_t merged = kNoSymbol;  // what they become; kNoSymbol in an empty slot
    int32_t rank = 0;            // of its score; 0 is the highest
  };
  using SymbolsByText = absl::flat_hash_map<std::string_view, int32_t>;

  absl::Status AddPieces(std::span<const Piece> pieces, SymbolsByText* by_text);
  void AddCharacters(std::span<const Piece> pieces, SymbolsByText* by_text);
  void AddPairs(std::span<const Piece> pieces, const SymbolsByText& by_text);
  void FillPairTable(const std::vector<Pair>& pairs);
  const Pair* FindPair(int32_t left, int32_t right) const;

  int32_t CharacterSymbol(char32_t codepoint) const;
  size_t NextSymbol(std::string_view text, int32_t* symbol) const;
  size_t FillChunk(std::string_view text, Chunk* chunk) const;
  void Merge(Chunk* chunk) const;
  void LookUpPair(int32_t left, int32_t right, Chunk* chunk) const;
  void Emit(Chunk* chunk, std::vector<int32_t>* ids) const;

  int32_t pieces_ = 0;
  int32_t ranks_ = 0;
  std::vector<int32_t> symbol_bytes_;    // [symbols] length
  std::vector<PieceUse> uses_;           // [pieces]
  std::array<int32_t, 256> byte_ids_{};  // the piece of each byte
  std::array<int32_t, 128> ascii_{};     // CharacterSymbol of the commonest, without a look-up
  int32_t space_ = kNoSymbol;            // of "▁", the commonest of all
  absl::flat_hash_map<char32_t, int32_t> characters_;
  std::vector<Pair> pairs_;  // open addressing; the size is a power of two
  int pairs_shift_ = 64;
  // User-defined pieces by their first byte, the longest first.
  std::array<std::vector<std::pair<std::string, int32_t>>, 256> user_defined_;
  // No piece joins the end of a word with the space before the next, and none is unused: words can
  // then be merged one after another with the same result, in as much memory as a cache holds.
  bool words_are_apart_ = false;
};

}  // namespace tuppence
