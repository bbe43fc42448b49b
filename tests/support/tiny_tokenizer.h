// Small made tokenizer folders in the published format, for tests of the tokenizer and of all that
// needs one. Nothing here is trained: pieces are letters, the bytes and what a test adds.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/tokenizer_model.pb.h"
#include "nlohmann/json.hpp"

namespace tuppence {

constexpr int32_t kFirstByte = 3;  // the byte pieces follow <unk>, <s> and </s>

// Ids of the tiny tokenizer's special tokens: <unk>, <s> and </s> as published, the others after
// the pieces, in the published order.
struct TinyTokenizerIds {
  int32_t end_of_text = 0;  // <|endoftext|>
  int32_t assistant = 0;    // rstrip, as published
  int32_t system = 0;
  int32_t end = 0;
  int32_t user = 0;
  int32_t vocab = 0;  // 8 ids more than are mapped
};

// A tokenizer.model that may be changed before it is written: <unk>, <s>, </s>, the 256 bytes, the
// space mark, the letters a to z, and `merges`, whose scores fall in their order.
tokenizer_model::ModelProto TinyTokenizerModel(const std::vector<std::string>& merges = {});
void AddPiece(
    tokenizer_model::ModelProto* model, const std::string& text, float score,
    tokenizer_model::ModelProto::Piece::Type type = tokenizer_model::ModelProto::Piece::NORMAL);

// A tokenizer_config.json with Phi-3's special tokens after the pieces of `model`, add_bos_token
// false and the Phi-3.5 chat template.
nlohmann::json TinyTokenizerConfig(const tokenizer_model::ModelProto& model);
TinyTokenizerIds TinyIds(const tokenizer_model::ModelProto& model);

void WriteTokenizerModel(const std::string& folder, const tokenizer_model::ModelProto& model);
// tokenizer.model and tokenizer_config.json.
TinyTokenizerIds WriteTinyTokenizer(const std::string& folder,
                                    const std::vector<std::string>& merges = {});

// The Jinja text of the published Phi-3.5 template.
extern const char* const kPhi35Template;

}  // namespace tuppence
