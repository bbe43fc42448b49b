// See byte_pair_merge.h. The order of merges, of look-ups and of the splitting of unused pieces is
// that of SentencePiece's BPE (Kudo & Richardson 2018, arXiv:1808.06226; src/bpe_model.cc).
#include "model/byte_pair_merge.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "model/check.h"
#include "model/huge_pages.h"
#include "model/utf8.h"

namespace tuppence {
namespace {

constexpr std::string_view kSpace = "\xE2\x96\x81";  // "▁", U+2581

// Words are merged together until a chunk has this many symbols: enough to make the fixed work per
// chunk small, little enough to stay in the first-level cache.
constexpr size_t kChunkSymbols = 256;

bool IsMergeable(const Piece& piece) {
  return piece.use == PieceUse::kNormal || piece.use == PieceUse::kUnused;
}

std::string Name(size_t id, const Piece& piece) {
  return absl::StrCat("piece ", id, " (\"", absl::CHexEscape(piece.text.substr(0, 64)), "\")");
}

absl::Status CheckPiece(size_t id, const Piece& piece) {
  if (piece.text.empty())
    return absl::InvalidArgumentError(absl::StrCat("piece ", id, " is empty"));
  if (piece.text.size() > BytePairMerge::kPieceBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(Name(id, piece), " has ", piece.text.size(),
                                                   " bytes; allowed are ",
                                                   BytePairMerge::kPieceBytesMax));
  }
  if (!IsValidUtf8(piece.text)) {
    return absl::InvalidArgumentError(absl::StrCat(Name(id, piece), " is not valid UTF-8"));
  }
  if (!std::isfinite(piece.score)) {
    return absl::InvalidArgumentError(
        absl::StrCat(Name(id, piece), " has the score ", piece.score, ", which is not a number"));
  }
  return absl::OkStatus();
}

// Ranks of the scores of `pieces`: 0 for the highest, equal for equal ones. [pieces]
std::vector<int32_t> RankScores(std::span<const Piece> pieces, int32_t* ranks) {
  std::vector<float> scores;
  for (const Piece& piece : pieces) scores.push_back(piece.score);
  std::sort(scores.begin(), scores.end(), std::greater<float>());
  scores.erase(std::unique(scores.begin(), scores.end()), scores.end());
  std::vector<int32_t> rank_of;
  for (const Piece& piece : pieces) {
    const auto at =
        std::lower_bound(scores.begin(), scores.end(), piece.score, std::greater<float>());
    rank_of.push_back(static_cast<int32_t>(at - scores.begin()));
  }
  *ranks = static_cast<int32_t>(scores.size());
  return rank_of;
}

// Whether some piece has a space after another character, as "a▁" or "▁a▁b" would.
bool JoinsWords(std::string_view piece) {
  for (size_t at = piece.find(kSpace); at != piece.npos; at = piece.find(kSpace, at + 1)) {
    if (at >= kSpace.size() && piece.substr(at - kSpace.size(), kSpace.size()) != kSpace) {
      return true;
    }
    if (at > 0 && at < kSpace.size()) return true;
  }
  return false;
}

uint64_t Key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
}

// Fibonacci hashing: the high bits of a product with 2^64 over the golden ratio.
uint64_t Mix(uint64_t key) {
  key ^= key >> 29;
  return key * 0x9E3779B97F4A7C15ULL;
}

}  // namespace

absl::StatusOr<BytePairMerge> BytePairMerge::Build(std::span<const Piece> pieces) {
  BytePairMerge merge;
  SymbolsByText by_text;
  const absl::Status added = merge.AddPieces(pieces, &by_text);
  if (!added.ok()) return added;
  merge.AddCharacters(pieces, &by_text);
  merge.AddPairs(pieces, by_text);
  return merge;
}

absl::Status BytePairMerge::AddPieces(std::span<const Piece> pieces, SymbolsByText* by_text) {
  pieces_ = static_cast<int32_t>(pieces.size());
  byte_ids_.fill(kNoSymbol);
  words_are_apart_ = true;
  absl::flat_hash_map<std::string_view, int32_t> ids;
  for (int32_t id = 0; id < pieces_; ++id) {
    const Piece& piece = pieces[id];
    const absl::Status checked = CheckPiece(id, piece);
    if (!checked.ok()) return checked;
    const auto [first, is_new] = ids.emplace(piece.text, id);
    if (!is_new) {
      return absl::InvalidArgumentError(
          absl::StrCat(Name(id, piece), " is the same as piece ", first->second));
    }
    symbol_bytes_.push_back(static_cast<int32_t>(piece.text.size()));
    uses_.push_back(piece.use);
    if (piece.use == PieceUse::kByte) {
      if (byte_ids_[piece.byte] != kNoSymbol) {
        return absl::InvalidArgumentError(absl::StrCat(
            Name(id, piece), " stands for the same byte as piece ", byte_ids_[piece.byte]));
      }
      byte_ids_[piece.byte] = id;
    }
    if (piece.use == PieceUse::kUserDefined) {
      user_defined_[static_cast<uint8_t>(piece.text[0])].emplace_back(piece.text, id);
    }
    if (!IsMergeable(piece)) continue;
    by_text->emplace(piece.text, id);
    if (piece.use == PieceUse::kUnused || JoinsWords(piece.text)) words_are_apart_ = false;
  }
  for (auto& group : user_defined_) {
    std::sort(group.begin(), group.end(),
              [](const auto& a, const auto& b) { return a.first.size() > b.first.size(); });
  }
  for (int byte = 0; byte < 256; ++byte) {
    if (byte_ids_[byte] != kNoSymbol) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "no piece for the byte ", byte, "; byte fallback needs all 256, <0x00> to <0xFF>"));
  }
  return absl::OkStatus();
}

// Every single character of a mergeable piece is a symbol, so that pairs can be found by number.
void BytePairMerge::AddCharacters(std::span<const Piece> pieces, SymbolsByText* by_text) {
  for (const Piece& piece : pieces) {
    if (!IsMergeable(piece)) continue;
    std::string_view rest = piece.text;
    while (!rest.empty()) {
      const Utf8Character character = NextUtf8Character(rest);
      const std::string_view text = rest.substr(0, character.bytes);
      rest.remove_prefix(character.bytes);
      const auto [symbol, is_new] =
          by_text->emplace(text, static_cast<int32_t>(symbol_bytes_.size()));
      if (is_new) symbol_bytes_.push_back(character.bytes);
      characters_.emplace(character.codepoint, symbol->second);
    }
  }
  const auto space = by_text->find(kSpace);
  if (space != by_text->end()) space_ = space->second;
  for (char32_t codepoint = 0; codepoint < ascii_.size(); ++codepoint) {
    const auto found = characters_.find(codepoint);
    ascii_[codepoint] = found == characters_.end() ? kNoSymbol : found->second;
  }
}

// All ways of joining two symbols to a piece.
void BytePairMerge::AddPairs(std::span<const Piece> pieces, const SymbolsByText& by_text) {
  const std::vector<int32_t> rank_of = RankScores(pieces, &ranks_);
  std::vector<Pair> pairs;
  for (int32_t id = 0; id < pieces_; ++id) {
    if (!IsMergeable(pieces[id])) continue;
    const std::string_view text = pieces[id].text;
    for (size_t cut = NextUtf8Character(text).bytes; cut < text.size();
         cut += NextUtf8Character(text.substr(cut)).bytes) {
      const auto left = by_text.find(text.substr(0, cut));
      if (left == by_text.end()) continue;
      const auto right = by_text.find(text.substr(cut));
      if (right == by_text.end()) continue;
      pairs.push_back({Key(left->second, right->second), id, rank_of[id]});
    }
  }
  FillPairTable(pairs);
}

void BytePairMerge::FillPairTable(const std::vector<Pair>& pairs) {
  const size_t slots = std::bit_ceil(2 * pairs.size() + 2);  // at most half full
  pairs_.assign(slots, Pair());
  pairs_shift_ = 64 - std::countr_zero(slots);
  for (const Pair& pair : pairs) {
    size_t slot = Mix(pair.key) >> pairs_shift_;
    while (pairs_[slot].merged != kNoSymbol) slot = (slot + 1) & (slots - 1);
    pairs_[slot] = pair;
  }
}

const BytePairMerge::Pair* BytePairMerge::FindPair(int32_t left, int32_t right) const {
  if (left < 0 || right < 0) return nullptr;
  const uint64_t key = Key(left, right);
  size_t slot = Mix(key) >> pairs_shift_;
  while (pairs_[slot].merged != kNoSymbol) {
    if (pairs_[slot].key == key) return &pairs_[slot];
    slot = (slot + 1) & (pairs_.size() - 1);
  }
  return nullptr;
}

void BytePairMerge::Encode(std::string_view text, std::vector<int32_t>* ids) const {
  CHECK_LE(text.size(), size_t{1} << 30);  // places are 32 bits wide
  Chunk chunk;
  while (!text.empty()) {
    text.remove_prefix(FillChunk(text, &chunk));
    Merge(&chunk);
    Emit(&chunk, ids);
  }
}

int32_t BytePairMerge::CharacterSymbol(char32_t codepoint) const {
  if (codepoint < ascii_.size()) return ascii_[codepoint];
  const auto found = characters_.find(codepoint);
  return found == characters_.end() ? kNoSymbol : found->second;
}

// The symbol at the front of `text`, and its length.
size_t BytePairMerge::NextSymbol(std::string_view text, int32_t* symbol) const {
  for (const auto& [piece, id] : user_defined_[static_cast<uint8_t>(text[0])]) {
    if (!text.starts_with(piece)) continue;
    *symbol = id;
    return piece.size();
  }
  const Utf8Character character = NextUtf8Character(text);
  CHECK(character.state == Utf8State::kValid);
  *symbol = CharacterSymbol(character.codepoint);
  return character.bytes;
}

// Fills `chunk` with the symbols of the front of `text`, up to the end of a word; returns its
// bytes.
size_t BytePairMerge::FillChunk(std::string_view text, Chunk* chunk) const {
  std::vector<Symbol>& symbols = chunk->symbols;
  symbols.clear();
  // Growing a vector of many megabytes step by step costs more than all merges of one letter.
  if (text.size() > symbols.capacity()) {
    symbols.reserve(text.size());
    WishForHugePages(symbols.data(), text.size() * sizeof(Symbol));
  }
  size_t offset = 0;
  bool after_space = true;
  while (offset < text.size()) {
    const std::string_view rest = text.substr(offset);
    const int32_t index = static_cast<int32_t>(symbols.size());
    const uint8_t byte = static_cast<uint8_t>(rest[0]);
    int32_t symbol = kNoSymbol;
    size_t bytes = 1;
    if (byte < ascii_.size() && user_defined_[byte].empty()) {
      symbol = ascii_[byte];
      after_space = false;
    } else {
      const bool is_space = rest.starts_with(kSpace);
      const bool at_word = is_space && !after_space;
      if (at_word && words_are_apart_ && symbols.size() >= kChunkSymbols) break;
      after_space = is_space;
      if (is_space && user_defined_[byte].empty()) {
        symbol = space_;
        bytes = kSpace.size();
      } else {
        bytes = NextSymbol(rest, &symbol);
      }
    }
    symbols.push_back({index - 1, index + 1, symbol, static_cast<int32_t>(offset)});
    offset += bytes;
  }
  symbols.back().next = -1;
  chunk->text = text.substr(0, offset);
  return offset;
}

void BytePairMerge::LookUpPair(int32_t left, int32_t right, Chunk* chunk) const {
  if (left < 0 || right < 0) return;
  const int32_t left_symbol = chunk->symbols[left].symbol;
  const int32_t right_symbol = chunk->symbols[right].symbol;
  const Pair* pair = FindPair(left_symbol, right_symbol);
  if (pair == nullptr) return;
  chunk->agenda.Push(pair->rank, {left, right, pair->merged});
  if (uses_[pair->merged] == PieceUse::kUnused) {
    chunk->joined_from[pair->merged] = {left_symbol, right_symbol};
  }
}

void BytePairMerge::Merge(Chunk* chunk) const {
  std::vector<Symbol>& symbols = chunk->symbols;
  chunk->agenda.Reset(ranks_, symbols.size());
  for (int32_t i = 1; i < static_cast<int32_t>(symbols.size()); ++i) LookUpPair(i - 1, i, chunk);
  AgendaPair pair;
  while (chunk->agenda.Pop(&pair)) {
    Symbol& left = symbols[pair.left];
    Symbol& right = symbols[pair.right];
    // One of the two has since been joined with another: the lengths no longer add up.
    if (left.symbol < 0 || right.symbol < 0) continue;
    if (symbol_bytes_[left.symbol] + symbol_bytes_[right.symbol] != symbol_bytes_[pair.merged]) {
      continue;
    }
    left.symbol = pair.merged;
    left.next = right.next;
    if (right.next >= 0) symbols[right.next].previous = pair.left;
    right.symbol = kJoined;
    LookUpPair(left.previous, pair.left, chunk);
    LookUpPair(pair.left, left.next, chunk);
  }
}

void BytePairMerge::Emit(Chunk* chunk, std::vector<int32_t>* ids) const {
  std::vector<int32_t>& splitting = chunk->splitting;
  for (int32_t i = 0; i >= 0; i = chunk->symbols[i].next) {
    const Symbol& at = chunk->symbols[i];
    const size_t end = at.next < 0 ? chunk->text.size() : chunk->symbols[at.next].offset;
    size_t offset = at.offset;
    // Unused pieces are split again until none is left; the stack is our own, for they may nest.
    splitting.assign(1, at.symbol);
    while (!splitting.empty()) {
      const int32_t symbol = splitting.back();
      splitting.pop_back();
      bool is_piece = symbol >= 0 && symbol < pieces_;
      if (is_piece && uses_[symbol] == PieceUse::kUnused) {
        const auto from = chunk->joined_from.find(symbol);
        if (from != chunk->joined_from.end()) {
          splitting.push_back(from->second.second);
          splitting.push_back(from->second.first);
          continue;
        }
        is_piece = false;  // a single character that is unused falls back to bytes
      }
      const size_t bytes = symbol >= 0 ? symbol_bytes_[symbol] : end - offset;
      if (is_piece) {
        ids->push_back(symbol);
      } else {
        for (size_t b = 0; b < bytes; ++b) {
          ids->push_back(byte_ids_[static_cast<uint8_t>(chunk->text[offset + b])]);
        }
      }
      offset += bytes;
    }
  }
}

}  // namespace tuppence
