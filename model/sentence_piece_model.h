// Reads tokenizer.model, a SentencePiece model file, and refuses whatever BytePairMerge would not
// reproduce: other model types, normalisation of the text, no byte fallback. Used by
// Tokenizer::Load.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/byte_pair_merge.h"

namespace tuppence {

struct SentencePieceModel {
  std::vector<Piece> pieces;  // by id
  bool adds_space_prefix = true;
};

// UNIMPLEMENTED, naming the setting, for a sound model of a kind that we do not have.
absl::StatusOr<SentencePieceModel> ReadSentencePieceModel(const std::string& path);

}  // namespace tuppence
