#include "tests/golden/golden_checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "model/check.h"
#include "model/float16.h"

namespace tuppence {
namespace {

const char kFolder[] = TUPPENCE_SOURCE_DIR "/tests/golden/logprobs";

// `uniform` of make_checkpoints.py.
double Uniform(uint64_t seed, uint64_t index) {
  uint64_t z = (index + 1) * 0x9E3779B97F4A7C15u + seed;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  return static_cast<double>(z >> 40) / 8388608.0 - 1;
}

uint64_t NameHash(const std::string& name) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (const char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001B3u;
  return hash;
}

// `values` of make_checkpoints.py.
float Value(const std::string& name, const std::vector<int64_t>& shape, bool tied, double u) {
  if (name.ends_with("norm.weight")) return static_cast<float>(1 + 0.1 * u);
  if (name == "model.embed_tokens.weight") return static_cast<float>(u * (tied ? 0.3 : 1.0));
  const double gain = name == "lm_head.weight" ? 3.0 : 1.0;
  return static_cast<float>(u * (gain * std::sqrt(3.0 / static_cast<double>(shape[1]))));
}

TinyTensor MakeTensor(const std::string& name, const std::vector<int64_t>& shape,
                      const Config& config) {
  TinyTensor tensor{name, "", shape, ""};
  int64_t count = 1;
  for (const int64_t dimension : shape) count *= dimension;
  const size_t bytes = BytesOf(config.dtype);
  tensor.bytes.resize(static_cast<size_t>(count) * bytes);
  const uint64_t seed = NameHash(name);
  for (int64_t i = 0; i < count; ++i) {
    const float value =
        Value(name, shape, config.tied_embeddings, Uniform(seed, static_cast<uint64_t>(i)));
    char* at = tensor.bytes.data() + static_cast<size_t>(i) * bytes;
    if (config.dtype == DType::kF32) {
      std::memcpy(at, &value, bytes);
    } else {
      const uint16_t bits = config.dtype == DType::kBf16 ? ToBf16(value).bits : ToF16(value).bits;
      std::memcpy(at, &bits, bytes);
    }
  }
  tensor.dtype =
      config.dtype == DType::kF32 ? "F32" : (config.dtype == DType::kBf16 ? "BF16" : "F16");
  return tensor;
}

}  // namespace

std::vector<std::string> GoldenNames() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kFolder)) {
    names.push_back(entry.path().stem());
  }
  std::sort(names.begin(), names.end());
  return names;
}

Golden ReadGolden(const std::string& name) {
  const nlohmann::json json =
      nlohmann::json::parse(ReadFile(std::string(kFolder) + "/" + name + ".json"));
  Golden golden;
  golden.name = name;
  golden.config_json = json["config"];
  golden.weights = json["weights"];
  const absl::StatusOr<Config> config = ParseConfig(golden.config_json.dump(), "");
  if (!config.ok()) std::cerr << name << ": " << config.status() << std::endl;
  CHECK(config.ok());
  golden.config = *config;
  for (const nlohmann::json& one : json["cases"]) {
    GoldenCase golden_case;
    const int32_t first = one["first"], stride = one["stride"], length = one["length"];
    for (int32_t i = 0; i < length; ++i) {
      golden_case.prompt.push_back((first + i * stride) % golden.config.vocab);
    }
    for (const nlohmann::json& row : one["rows"]) {
      golden_case.rows.push_back({row["length"], row["ids"], row["logprobs"], row["logit_rms"]});
    }
    golden.cases.push_back(std::move(golden_case));
  }
  return golden;
}

void WriteGoldenCheckpoint(const Golden& golden, const std::string& folder) {
  WriteFile(folder + "/config.json", golden.config_json.dump());
  std::vector<TinyTensor> tensors;
  for (const TinyTensor& tensor : TinyTensors(golden.config)) {
    tensors.push_back(MakeTensor(tensor.name, tensor.shape, golden.config));
  }
  WriteTinyTensors(folder, tensors, /*shards=*/2);
}

}  // namespace tuppence
