// See synthetic.h. The shapes are those of the published config.json files.
#include "model/synthetic.h"

#include <array>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/check.h"
#include "model/float16.h"
#include "model/phi3_tensors.h"

namespace tuppence {
namespace {

constexpr char kPrefix[] = "synthetic:";

struct Shape {
  const char* name;
  int32_t layers, hidden, heads, kv_heads, intermediate, vocab;
  int32_t positions_max, positions_original, sliding_window;
  double rope_base, rotary_part;
  bool long_rope, tied_embeddings;
  int32_t bos_id, pad_id;
  std::array<int32_t, 3> stop_ids;  // sorted; -1: none
};

// clang-format off
constexpr Shape kShapes[] = {
    {"phi-3-mini-4k", 32, 3072, 32, 32, 8192, 32064, 4096, 4096, 2047, 1e4, 1.0, false, false,
     1, 32000, {32000, 32001, 32007}},
    {"phi-3-mini-128k", 32, 3072, 32, 32, 8192, 32064, 131072, 4096, 0, 1e4, 1.0, true, false,
     1, 32000, {32000, 32001, 32007}},
    {"phi-3.5-mini", 32, 3072, 32, 32, 8192, 32064, 131072, 4096, 0, 1e4, 1.0, true, false,
     1, 32000, {32000, 32001, 32007}},
    {"phi-3-medium-4k", 40, 5120, 40, 10, 17920, 32064, 4096, 4096, 2047, 1e4, 1.0, false, false,
     1, 32000, {32000, 32001, 32007}},
    {"phi-3-medium-128k", 40, 5120, 40, 10, 17920, 32064, 131072, 4096, 0, 1e4, 1.0, true, false,
     1, 32000, {32000, 32001, 32007}},
    {"phi-4", 40, 5120, 40, 10, 17920, 100352, 16384, 16384, 0, 2.5e5, 1.0, false, false,
     100257, 100349, {100265, -1, -1}},
    {"phi-4-mini", 32, 3072, 24, 8, 8192, 200064, 131072, 4096, 0, 1e4, 0.75, true, true,
     199999, 199999, {199999, 200020, -1}},
};
// clang-format on

// Made up, with the published lists' ends: short from 1 to 2.84, long from 1.08 to 64.84, rising.
LongRope MakeLongRope(int32_t half) {
  LongRope scaling;
  for (int32_t i = 0; i < half; ++i) {
    const double part = static_cast<double>(i) / (half - 1);
    scaling.short_factor.push_back(static_cast<float>(1.0 + 1.84 * part));
    scaling.long_factor.push_back(static_cast<float>(1.08 * std::pow(64.84 / 1.08, part)));
  }
  return scaling;
}

Config MakeConfig(const Shape& shape) {
  Config config;
  config.layers = shape.layers;
  config.hidden = shape.hidden;
  config.heads = shape.heads;
  config.kv_heads = shape.kv_heads;
  config.head_dim = shape.hidden / shape.heads;
  config.intermediate = shape.intermediate;
  config.vocab = shape.vocab;
  config.positions_max = shape.positions_max;
  config.positions_original = shape.positions_original;
  config.sliding_window = shape.sliding_window;
  config.rotary_dim = static_cast<int32_t>(config.head_dim * shape.rotary_part);
  config.rms_norm_epsilon = 1e-5f;
  config.rope_base = shape.rope_base;
  if (shape.long_rope) config.long_rope = MakeLongRope(config.rotary_dim / 2);
  config.tied_embeddings = shape.tied_embeddings;
  config.bos_id = shape.bos_id;
  config.pad_id = shape.pad_id;
  for (const int32_t id : shape.stop_ids) {
    if (id >= 0) config.stop_ids.push_back(id);
  }
  config.dtype = DType::kBf16;
  return config;
}

// A bijection of 64 bits whose outputs for successive inputs look random.
// Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
inline uint64_t SplitMix64(uint64_t state) {
  state += 0x9e3779b97f4a7c15u;
  state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9u;
  state = (state ^ (state >> 27)) * 0x94d049bb133111ebu;
  return state ^ (state >> 31);
}

uint64_t HashOf(const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return hash;
}

// The value of each random byte. Odd multiples of 2^-13 up to 255: eight significant bits, so that
// bf16 and f16 hold them exactly; uniform with a standard deviation of 0.018, as of trained
// weights.
float MatrixValue(int byte) { return static_cast<float>(2 * byte - 255) * 0x1p-13f; }
// Around one, in bf16's steps.
float NormValue(int byte) { return static_cast<float>(112 + byte % 32) * 0x1p-7f; }

template <typename Value, typename Convert>
void Fill(uint64_t seed, int64_t first, int64_t count, float (*value_of)(int), Convert convert,
          void* out) {
  std::array<Value, 256> table;
  for (int byte = 0; byte < 256; ++byte) table[byte] = convert(value_of(byte));
  Value* values = static_cast<Value*>(out);
  for (int64_t i = 0; i < count; i += 8) {
    uint64_t bits = SplitMix64(seed + static_cast<uint64_t>((first + i) / 8));
    for (int k = 0; k < 8; ++k, bits >>= 8) values[i + k] = table[bits & 0xff];
  }
}

class SyntheticWeights : public WeightSource {
 public:
  SyntheticWeights(const Config& config, uint64_t seed) : seed_(seed) {
    for (Phi3Tensor& tensor : Phi3Tensors(config)) {
      tensors_.push_back(
          {std::move(tensor.name), config.dtype, std::move(tensor.shape), "synthetic weights"});
    }
  }

  std::string place() const override { return "synthetic weights"; }
  const std::vector<SourceTensor>& tensors() const override { return tensors_; }

  absl::Status ReadRows(size_t index, int64_t first_row, int64_t rows, void* out) override {
    const SourceTensor& tensor = tensors_[index];
    const bool norm = tensor.shape.size() == 1;
    const int64_t cols = norm ? 1 : tensor.shape[1];
    const int64_t first = first_row * cols;
    const int64_t count = rows * cols;
    CHECK_EQ(first % 8, 0);  // a random word makes eight values; all sizes are multiples of 8
    CHECK_EQ(count % 8, 0);
    const uint64_t seed = SplitMix64(seed_ ^ HashOf(tensor.name));
    const auto value_of = norm ? NormValue : MatrixValue;
    switch (tensor.type) {
      case DType::kF32:
        Fill<float>(
            seed, first, count, value_of, [](float value) { return value; }, out);
        break;
      case DType::kBf16:
        Fill<Bf16>(seed, first, count, value_of, ToBf16, out);
        break;
      default:
        CHECK(tensor.type == DType::kF16);
        Fill<F16>(seed, first, count, value_of, ToF16, out);
    }
    return absl::OkStatus();
  }

 private:
  uint64_t seed_;
  std::vector<SourceTensor> tensors_;
};

}  // namespace

bool IsSyntheticName(const std::string& model) { return model.rfind(kPrefix, 0) == 0; }

std::vector<std::string> SyntheticNames() {
  std::vector<std::string> names;
  for (const Shape& shape : kShapes) names.push_back(shape.name);
  return names;
}

absl::StatusOr<Config> SyntheticConfig(const std::string& model) {
  const std::string name = IsSyntheticName(model) ? model.substr(sizeof(kPrefix) - 1) : model;
  for (const Shape& shape : kShapes) {
    if (name == shape.name) return MakeConfig(shape);
  }
  return absl::NotFoundError(absl::StrCat("there are no synthetic weights named ", name,
                                          "; there are ", absl::StrJoin(SyntheticNames(), ", ")));
}

std::unique_ptr<WeightSource> MakeSyntheticWeights(const Config& config, uint64_t seed) {
  return std::make_unique<SyntheticWeights>(config, seed);
}

}  // namespace tuppence
