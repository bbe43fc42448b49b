// See tiny_tokenizer.h.
#include "tests/support/tiny_tokenizer.h"

#include "absl/strings/str_format.h"
#include "tests/support/tiny_checkpoint.h"

namespace tuppence {

using nlohmann::json;
using tokenizer_model::ModelProto;
using tokenizer_model::TrainerSpec;

const char* const kPhi35Template =
    "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}"
    "{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'user' %}"
    "{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}";

void AddPiece(ModelProto* model, const std::string& text, float score,
              ModelProto::Piece::Type type) {
  ModelProto::Piece* piece = model->add_pieces();
  piece->set_piece(text);
  piece->set_score(score);
  piece->set_type(type);
}

ModelProto TinyTokenizerModel(const std::vector<std::string>& merges) {
  ModelProto model;
  model.mutable_trainer_spec()->set_model_type(TrainerSpec::BPE);
  model.mutable_trainer_spec()->set_byte_fallback(true);
  model.mutable_normalizer_spec()->set_name("identity");
  model.mutable_normalizer_spec()->set_remove_extra_whitespaces(false);
  AddPiece(&model, "<unk>", 0, ModelProto::Piece::UNKNOWN);
  AddPiece(&model, "<s>", 0, ModelProto::Piece::CONTROL);
  AddPiece(&model, "</s>", 0, ModelProto::Piece::CONTROL);
  for (int byte = 0; byte < 256; ++byte) {
    AddPiece(&model, absl::StrFormat("<0x%02X>", byte), 0, ModelProto::Piece::BYTE);
  }
  // As in trained models, where the characters follow the merges and score lower.
  float score = -1000;
  AddPiece(&model, "\u2581", score--);
  for (char letter = 'a'; letter <= 'z'; ++letter)
    AddPiece(&model, std::string(1, letter), score--);
  score = -1;
  for (const std::string& merge : merges) AddPiece(&model, merge, score--);
  return model;
}

TinyTokenizerIds TinyIds(const ModelProto& model) {
  TinyTokenizerIds ids;
  ids.end_of_text = model.pieces_size();
  ids.assistant = ids.end_of_text + 1;
  ids.system = ids.end_of_text + 2;
  ids.end = ids.end_of_text + 3;
  ids.user = ids.end_of_text + 4;
  ids.vocab = ids.user + 1 + 8;
  return ids;
}

json TinyTokenizerConfig(const ModelProto& model) {
  const TinyTokenizerIds ids = TinyIds(model);
  json tokens;
  const auto add = [&tokens](int32_t id, const char* content, bool rstrip) {
    tokens[std::to_string(id)] = {{"content", content},   {"lstrip", false},
                                  {"normalized", false},  {"rstrip", rstrip},
                                  {"single_word", false}, {"special", true}};
  };
  add(0, "<unk>", false);
  add(1, "<s>", false);
  add(2, "</s>", true);
  add(ids.end_of_text, "<|endoftext|>", false);
  add(ids.assistant, "<|assistant|>", true);
  add(ids.system, "<|system|>", false);
  add(ids.end, "<|end|>", false);
  add(ids.user, "<|user|>", false);
  return {{"add_bos_token", false},
          {"add_eos_token", false},
          {"added_tokens_decoder", tokens},
          {"bos_token", "<s>"},
          {"chat_template", kPhi35Template},
          {"eos_token", "<|endoftext|>"},
          {"tokenizer_class", "LlamaTokenizer"},
          {"unk_token", "<unk>"}};
}

void WriteTokenizerModel(const std::string& folder, const ModelProto& model) {
  WriteFile(folder + "/tokenizer.model", model.SerializeAsString());
}

TinyTokenizerIds WriteTinyTokenizer(const std::string& folder,
                                    const std::vector<std::string>& merges) {
  const ModelProto model = TinyTokenizerModel(merges);
  WriteTokenizerModel(folder, model);
  WriteFile(folder + "/tokenizer_config.json", TinyTokenizerConfig(model).dump(2));
  return TinyIds(model);
}

}  // namespace tuppence
