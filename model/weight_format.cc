#include "model/weight_format.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tuppence {
namespace {

constexpr int32_t kInt8Group = 128;
constexpr int32_t kInt4Group = 32;

}  // namespace

const char* NameOf(WeightType type) {
  switch (type) {
    case WeightType::kF32:
      return "f32";
    case WeightType::kBf16:
      return "bf16";
    case WeightType::kF16:
      return "f16";
    case WeightType::kInt8:
      return "int8";
    case WeightType::kInt4:
      return "int4";
  }
  return "?";
}

std::string IdOf(const WeightFormat& format) {
  return format.quantised() ? absl::StrCat(NameOf(format.type), "g", format.group)
                            : NameOf(format.type);
}

absl::StatusOr<WeightFormat> ParseWeightFormat(const std::string& name) {
  if (name == "bf16") return WeightFormat{WeightType::kBf16, 0};
  if (name == "f16") return WeightFormat{WeightType::kF16, 0};
  if (name == "f32") return WeightFormat{WeightType::kF32, 0};
  if (name == "int8") return WeightFormat{WeightType::kInt8, kInt8Group};
  if (name == "int4") return WeightFormat{WeightType::kInt4, kInt4Group};
  return absl::InvalidArgumentError(absl::StrCat("weights cannot be kept as \"", name,
                                                 "\"; allowed are bf16, f16, f32, int8, int4"));
}

WeightFormat HeadFormat(const WeightFormat& layers) {
  if (layers.type == WeightType::kInt4) return {WeightType::kInt8, kInt8Group};
  return layers;
}

}  // namespace tuppence
