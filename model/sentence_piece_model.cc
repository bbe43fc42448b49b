// See sentence_piece_model.h.
#include "model/sentence_piece_model.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "model/file.h"
#include "model/tokenizer_model.pb.h"

namespace tuppence {
namespace {

using tokenizer_model::ModelProto;
using tokenizer_model::NormalizerSpec;
using tokenizer_model::TrainerSpec;

// The published file has half a megabyte; the limit only keeps a wrong file out of memory.
constexpr int64_t kModelBytesMax = int64_t{64} << 20;

absl::Status Unsupported(const std::string& what) {
  return absl::UnimplementedError(
      absl::StrCat("tokenizer.model ", what,
                   "; supported is SentencePiece BPE with byte fallback and text left as it is "
                   "(spaces become \"\xE2\x96\x81\"), as Phi-3 publishes it"));
}

absl::Status CheckSettings(const ModelProto& model) {
  const TrainerSpec& trainer = model.trainer_spec();
  const NormalizerSpec& normalizer = model.normalizer_spec();
  if (trainer.model_type() != TrainerSpec::BPE) {
    return Unsupported(
        absl::StrCat("is of the type ", TrainerSpec::ModelType_Name(trainer.model_type())));
  }
  if (!trainer.byte_fallback()) return Unsupported("has no byte fallback");
  if (trainer.treat_whitespace_as_suffix()) return Unsupported("puts spaces after words");
  if (!normalizer.precompiled_charsmap().empty()) {
    return Unsupported(absl::StrCat("normalises text by the rule \"",
                                    absl::CHexEscape(normalizer.name().substr(0, 64)), "\""));
  }
  if (normalizer.remove_extra_whitespaces()) return Unsupported("removes extra spaces");
  if (!normalizer.escape_whitespaces()) return Unsupported("does not escape spaces");
  return absl::OkStatus();
}

// "<0x41>" is the piece of the byte 0x41.
bool ParseBytePiece(std::string_view text, uint8_t* byte) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return false;
  const size_t high = kDigits.find(text[3]);
  const size_t low = kDigits.find(text[4]);
  if (high == kDigits.npos || low == kDigits.npos) return false;
  *byte = static_cast<uint8_t>(high << 4 | low);
  return true;
}

absl::StatusOr<Piece> ToPiece(const ModelProto::Piece& from) {
  Piece piece;
  piece.text = from.piece();
  piece.score = from.score();
  switch (from.type()) {
    case ModelProto::Piece::NORMAL:
      piece.use = PieceUse::kNormal;
      break;
    case ModelProto::Piece::UNUSED:
      piece.use = PieceUse::kUnused;
      break;
    case ModelProto::Piece::USER_DEFINED:
      piece.use = PieceUse::kUserDefined;
      break;
    case ModelProto::Piece::UNKNOWN:
    case ModelProto::Piece::CONTROL:
      piece.use = PieceUse::kNone;
      break;
    case ModelProto::Piece::BYTE:
      piece.use = PieceUse::kByte;
      if (!ParseBytePiece(piece.text, &piece.byte)) {
        return absl::InvalidArgumentError(absl::StrCat("byte piece \"",
                                                       absl::CHexEscape(piece.text.substr(0, 64)),
                                                       "\"; expected <0x00> to <0xFF>"));
      }
      break;
  }
  return piece;
}

}  // namespace

absl::StatusOr<SentencePieceModel> ReadSentencePieceModel(const std::string& path) {
  const absl::StatusOr<std::string> bytes = ReadSmallFile(path, kModelBytesMax);
  if (!bytes.ok()) return bytes.status();
  ModelProto model;
  if (!model.ParseFromString(*bytes) || model.pieces().empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, " (", bytes->size(),
        " bytes) is not a SentencePiece model, or is damaged; download it again (a small text file "
        "here is a Git LFS pointer: run git lfs pull)"));
  }
  const absl::Status settings = CheckSettings(model);
  if (!settings.ok()) return settings;
  SentencePieceModel out;
  out.adds_space_prefix = model.normalizer_spec().add_dummy_prefix();
  for (const ModelProto::Piece& from : model.pieces()) {
    absl::StatusOr<Piece> piece = ToPiece(from);
    if (!piece.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": ", piece.status().message()));
    }
    out.pieces.push_back(*std::move(piece));
  }
  const auto unknown =
      std::count_if(model.pieces().begin(), model.pieces().end(),
                    [](const auto& p) { return p.type() == ModelProto::Piece::UNKNOWN; });
  if (unknown != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", unknown, " unknown pieces; expected exactly one, <unk>"));
  }
  return out;
}

}  // namespace tuppence
