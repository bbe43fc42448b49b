// See phi3_tensors.h.
#include "model/phi3_tensors.h"

#include "absl/strings/str_cat.h"

namespace tuppence {

std::string LayerTensorName(int32_t layer, const std::string& part) {
  return absl::StrCat("model.layers.", layer, ".", part, ".weight");
}

std::vector<Phi3Tensor> Phi3Tensors(const Config& config) {
  const int64_t hidden = config.hidden;
  std::vector<Phi3Tensor> tensors;
  tensors.push_back({kEmbeddingName, {config.vocab, hidden}});
  for (int32_t layer = 0; layer < config.layers; ++layer) {
    const auto add = [&](const char* part, std::vector<int64_t> shape) {
      tensors.push_back({LayerTensorName(layer, part), std::move(shape)});
    };
    add(kInputNormPart, {hidden});
    add(kQkvPart, {config.qkv_rows(), hidden});
    add(kOutputPart, {hidden, config.attention_cols()});
    add(kPostNormPart, {hidden});
    add(kGateUpPart, {int64_t{2} * config.intermediate, hidden});
    add(kDownPart, {hidden, config.intermediate});
  }
  tensors.push_back({kFinalNormName, {hidden}});
  if (!config.tied_embeddings) tensors.push_back({kHeadName, {config.vocab, hidden}});
  return tensors;
}

}  // namespace tuppence
