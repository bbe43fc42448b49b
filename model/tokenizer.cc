// See tokenizer.h.
#include "model/tokenizer.h"

#include <sys/stat.h>

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "model/check.h"
#include "model/sentence_piece_model.h"
#include "model/utf8.h"

namespace tuppence {
namespace {

constexpr const char* kSpaceMark = "\xE2\x96\x81";  // "▁", U+2581, which stands for a space
constexpr const char* kOneRevision = "; take all files from one revision of the checkpoint";

bool FileExists(const std::string& path) {
  struct stat info;
  return ::stat(path.c_str(), &info) == 0;
}

// Why a folder without tokenizer.model cannot be used.
absl::Status NoSentencePieceModel(const std::string& folder) {
  std::string found;
  for (const char* file : {"tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json",
                           "cl100k_base.tiktoken", "tokenizer.tiktoken"}) {
    if (FileExists(absl::StrCat(folder, "/", file))) {
      absl::StrAppend(&found, found.empty() ? "" : ", ", file);
    }
  }
  if (found.empty()) {
    return absl::NotFoundError(absl::StrCat("no tokenizer in ", folder,
                                            "; text needs the checkpoint's tokenizer.model and "
                                            "tokenizer_config.json, token ids need none"));
  }
  const absl::StatusOr<AddedTokens> added = ReadAddedTokens(folder);
  return absl::UnimplementedError(
      absl::StrCat("the tokenizer in ", folder, " has no tokenizer.model; found ", found,
                   added.ok() ? "" : absl::StrCat(" (", std::string(added.status().message()), ")"),
                   "; supported is SentencePiece BPE, as Phi-3 publishes it in tokenizer.model; "
                   "other tokenizers "
                   "(Phi-4's) can be served with token ids only"));
}

// tokenizer.json repeats the pieces; where the two differ, one belongs to another checkpoint.
absl::Status CheckVocabulary(const std::vector<Piece>& pieces, const AddedTokens& added) {
  if (added.vocabulary.empty()) return absl::OkStatus();
  size_t same = 0;
  for (const auto& [text, id] : added.vocabulary) {
    if (static_cast<size_t>(id) >= pieces.size()) continue;  // an added token
    if (pieces[id].text != text) {
      return absl::InvalidArgumentError(absl::StrCat(
          "tokenizer.json has the piece \"", absl::CHexEscape(text), "\" at id ", id,
          ", tokenizer.model \"", absl::CHexEscape(pieces[id].text), "\"", kOneRevision));
    }
    ++same;
  }
  if (same == pieces.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("tokenizer.json has ", same, " of the ", pieces.size(),
                   " pieces of tokenizer.model; expected all of them", kOneRevision));
}

std::string_view StripFront(std::string_view text) {
  while (!text.empty()) {
    const Utf8Character character = NextUtf8Character(text);
    if (!IsUnicodeSpace(character.codepoint)) break;
    text.remove_prefix(character.bytes);
  }
  return text;
}

std::string_view StripBack(std::string_view text) {
  size_t end = 0;  // after the last character that is no space
  for (size_t at = 0; at < text.size();) {
    const Utf8Character character = NextUtf8Character(text.substr(at));
    at += character.bytes;
    if (!IsUnicodeSpace(character.codepoint)) end = at;
  }
  return text.substr(0, end);
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::Load(const std::string& folder,
                                                                 int32_t vocab) {
  CHECK_GT(vocab, 0);
  const std::string path = absl::StrCat(folder, "/tokenizer.model");
  if (!FileExists(path)) return NoSentencePieceModel(folder);
  absl::StatusOr<SentencePieceModel> model = ReadSentencePieceModel(path);
  if (!model.ok()) return model.status();
  absl::StatusOr<AddedTokens> added = ReadAddedTokens(folder);
  if (!added.ok()) return added.status();
  if (model->pieces.size() > static_cast<size_t>(vocab)) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.model has ", model->pieces.size(),
                                                   " pieces, but config.json's vocab_size is ",
                                                   vocab, kOneRevision));
  }
  std::shared_ptr<Tokenizer> tokenizer(new Tokenizer());
  tokenizer->entries_.resize(vocab);
  tokenizer->mapped_ids_.resize((static_cast<size_t>(vocab) + 63) / 64);
  const size_t pieces = model->pieces.size();
  absl::Status set = CheckVocabulary(model->pieces, *added);
  if (set.ok()) set = tokenizer->SetPieces(std::move(model->pieces), *added);
  if (set.ok()) set = tokenizer->SetAddedTokens(pieces, *added);
  if (set.ok()) set = tokenizer->SetBosAndEos(*added);
  if (!set.ok()) return set;
  if (added->space_prefix.has_value()) {
    tokenizer->space_prefix_ = *added->space_prefix;
  } else if (!model->adds_space_prefix) {
    tokenizer->space_prefix_.segments = SpacePrefix::Segments::kNone;
  }
  tokenizer->chat_template_source_ = std::move(added->chat_template_source);
  return tokenizer;
}

absl::Status Tokenizer::SetPieces(std::vector<Piece> pieces, const AddedTokens& added) {
  bool has_space = false;
  for (size_t id = 0; id < pieces.size(); ++id) {
    Piece& piece = pieces[id];
    const auto token = added.tokens.find(static_cast<int32_t>(id));
    // A tokenizer may be trained with its special tokens as user-defined pieces, which text would
    // match; what is special is never made from text.
    if (token != added.tokens.end() && token->second.special && piece.use != PieceUse::kByte) {
      piece.use = PieceUse::kNone;
    }
    Entry& entry = entries_[id];
    entry.mapped = true;
    mapped_ids_[id / 64] |= uint64_t{1} << (id % 64);
    if (piece.use == PieceUse::kByte) {
      entry.bytes.assign(1, static_cast<char>(piece.byte));
    } else if (piece.use == PieceUse::kNone) {
      entry.bytes = piece.text;
      entry.special = true;
      specials_[piece.text] = static_cast<int32_t>(id);
    } else {
      entry.bytes = absl::StrReplaceAll(piece.text, {{kSpaceMark, " "}});
      entry.starts_word = piece.text.starts_with(kSpaceMark);
      has_space |= piece.text == kSpaceMark;
    }
  }
  if (!has_space) {
    // Without it a space would fall back to three bytes, and TokensUpperBound would be wrong.
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer.model has no piece for a space (\"", kSpaceMark, "\")"));
  }
  absl::StatusOr<BytePairMerge> merge = BytePairMerge::Build(pieces);
  if (!merge.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer.model: ", std::string(merge.status().message())));
  }
  merge_ = *std::move(merge);
  return absl::OkStatus();
}

absl::Status Tokenizer::SetAddedTokens(size_t pieces, const AddedTokens& added) {
  for (const auto& [id, token] : added.tokens) {
    if (id >= vocab()) {
      return absl::InvalidArgumentError(
          absl::StrCat(token.file, " gives ", token.content, " the id ", id,
                       ", but config.json's vocab_size is ", vocab(), kOneRevision));
    }
    Entry& entry = entries_[id];
    if (static_cast<size_t>(id) < pieces && entry.bytes != token.content) {
      return absl::InvalidArgumentError(absl::StrCat(
          token.file, " gives the id ", id, " to ", token.content, ", tokenizer.model to \"",
          absl::CHexEscape(entry.bytes), "\"", kOneRevision));
    }
    if (!IsValidUtf8(token.content)) {
      return absl::InvalidArgumentError(
          absl::StrCat(token.file, ": the added token ", id, " is not valid UTF-8"));
    }
    entry.bytes = token.content;
    entry.mapped = true;
    entry.special |= token.special;
    entry.lstrip = token.lstrip;
    entry.rstrip = token.rstrip;
    mapped_ids_[id / 64] |= uint64_t{1} << (id % 64);
    if (entry.special) specials_[token.content] = id;
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::SetBosAndEos(const AddedTokens& added) {
  bos_id_ = FindSpecial(added.bos_token.empty() ? "<s>" : added.bos_token);
  eos_id_ = FindSpecial(added.eos_token.empty() ? "</s>" : added.eos_token);
  for (const std::string& named : {added.bos_token, added.eos_token}) {
    if (named.empty() || FindSpecial(named).has_value()) continue;
    return absl::InvalidArgumentError(absl::StrCat("tokenizer_config.json names the token ", named,
                                                   ", which is no special token of the tokenizer",
                                                   kOneRevision));
  }
  // The published default of Llama tokenizers, which Phi-3's is one of.
  adds_bos_ = added.adds_bos.value_or(bos_id_.has_value());
  if (adds_bos_ && !bos_id_.has_value()) {
    return absl::InvalidArgumentError(
        "tokenizer_config.json has add_bos_token, but no bos_token; name it or set add_bos_token "
        "to "
        "false");
  }
  return absl::OkStatus();
}

std::vector<int32_t> Tokenizer::Encode(std::string_view text) const {
  std::vector<int32_t> ids;
  EncodeSegment(text, /*first=*/true, &ids);
  return ids;
}

std::vector<int32_t> Tokenizer::EncodeParts(const std::vector<PromptPart>& parts) const {
  std::vector<int32_t> ids;
  const Entry* before = nullptr;  // the special token before the segment
  for (size_t i = 0; i < parts.size();) {
    if (parts[i].special_id >= 0) {
      CHECK(IsMapped(parts[i].special_id));
      before = &entries_[parts[i].special_id];
      ids.push_back(parts[i++].special_id);
      continue;
    }
    std::string joined = parts[i++].text;
    while (i < parts.size() && parts[i].special_id < 0) joined += parts[i++].text;
    const Entry* after = i < parts.size() ? &entries_[parts[i].special_id] : nullptr;
    std::string_view segment = joined;
    if (before != nullptr && before->rstrip) segment = StripFront(segment);
    if (after != nullptr && after->lstrip) segment = StripBack(segment);
    EncodeSegment(segment, /*first=*/before == nullptr, &ids);
  }
  return ids;
}

void Tokenizer::EncodeSegment(std::string_view text, bool first, std::vector<int32_t>* ids) const {
  if (text.empty()) return;
  bool prefix = space_prefix_.segments == SpacePrefix::Segments::kEach ||
                (space_prefix_.segments == SpacePrefix::Segments::kFirst && first);
  if (space_prefix_.unless_space && (text[0] == ' ' || text.starts_with(kSpaceMark))) {
    prefix = false;
  }
  std::string marked;
  marked.reserve(text.size() + text.size() / 2 + 3);
  if (prefix) marked += kSpaceMark;
  for (const char byte : text) {
    if (byte == ' ') {
      marked += kSpaceMark;
    } else {
      marked += byte;
    }
  }
  merge_.Encode(marked, ids);
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string bytes;
  bool at_start = true;
  for (const int32_t id : ids) {
    std::string_view token = TokenBytes(id);
    if (IsSpecial(id) && skip_special) continue;
    if (at_start && StartsWord(id)) token.remove_prefix(1);
    at_start = false;
    bytes += token;
  }
  std::string text;
  AppendValidUtf8(bytes, &text);
  return text;
}

std::string_view Tokenizer::TokenBytes(int32_t id) const {
  CHECK(id >= 0 && id < vocab());
  return entries_[id].bytes;
}

bool Tokenizer::StartsWord(int32_t id) const {
  CHECK(id >= 0 && id < vocab());
  return space_prefix_.segments != SpacePrefix::Segments::kNone && entries_[id].starts_word;
}

bool Tokenizer::IsSpecial(int32_t id) const {
  CHECK(id >= 0 && id < vocab());
  return entries_[id].special;
}

bool Tokenizer::IsMapped(int32_t id) const {
  CHECK(id >= 0 && id < vocab());
  return entries_[id].mapped;
}

std::optional<int32_t> Tokenizer::FindSpecial(std::string_view content) const {
  const auto found = specials_.find(std::string(content));
  if (found == specials_.end()) return std::nullopt;
  return found->second;
}

}  // namespace tuppence
