// See tiny_checkpoint.h.
#include "tests/support/tiny_checkpoint.h"

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "model/check.h"
#include "model/float16.h"
#include "model/phi3_tensors.h"

namespace tuppence {
namespace {

using nlohmann::json;

template <typename Value>
void Append(std::string& bytes, const Value& value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

std::string DtypeName(DType type) {
  return type == DType::kF32 ? "F32" : type == DType::kF16 ? "F16" : "BF16";
}

}  // namespace

TemporaryFolder::TemporaryFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "tuppence_test_XXXXXX").string();
  CHECK(::mkdtemp(name.data()) != nullptr);
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.close();
  CHECK(out.good());
}

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  CHECK(in.good());
  return std::string(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
}

std::string SafetensorsBytes(const std::string& header, const std::string& data) {
  std::string bytes;
  Append(bytes, static_cast<uint64_t>(header.size()));
  return bytes + header + data;
}

std::string SafetensorsBytes(const json& header, const std::string& data) {
  return SafetensorsBytes(header.dump(), data);
}

std::string SafetensorsBytes(const std::vector<TinyTensor>& tensors) {
  json header = {{"__metadata__", {{"format", "pt"}}}};
  std::string data;
  for (const TinyTensor& tensor : tensors) {
    const size_t begin = data.size();
    data += tensor.bytes;
    header[tensor.name] = {
        {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  return SafetensorsBytes(header, data);
}

json TinyConfigJson() {
  return {{"architectures", {"Phi3ForCausalLM"}},
          {"model_type", "phi3"},
          {"num_hidden_layers", 2},
          {"hidden_size", 32},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"intermediate_size", 48},
          {"vocab_size", 40},
          {"max_position_embeddings", 64},
          {"original_max_position_embeddings", 64},
          {"rope_theta", 10000.0},
          {"rope_scaling", nullptr},
          {"rms_norm_eps", 1e-5},
          {"hidden_act", "silu"},
          {"tie_word_embeddings", false},
          {"sliding_window", nullptr},
          {"bos_token_id", 1},
          {"eos_token_id", 2},
          {"pad_token_id", 0},
          {"torch_dtype", "bfloat16"}};
}

std::vector<TinyTensor> TinyTensors(const Config& config, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<TinyTensor> tensors;
  for (const Phi3Tensor& expected : Phi3Tensors(config)) {
    TinyTensor tensor{expected.name, DtypeName(config.dtype), expected.shape, ""};
    int64_t count = 1;
    for (const int64_t dimension : expected.shape) count *= dimension;
    const bool norm = expected.shape.size() == 1;
    for (int64_t i = 0; i < count; ++i) {
      const float noise = static_cast<float>(random() >> 40) * 0x1p-24f - 0.5f;
      const float value = norm ? 1.0f + 0.25f * noise : 0.5f * noise;
      if (config.dtype == DType::kF32) {
        Append(tensor.bytes, value);
      } else if (config.dtype == DType::kF16) {
        Append(tensor.bytes, ToF16(value).bits);
      } else {
        Append(tensor.bytes, ToBf16(value).bits);
      }
    }
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

void WriteTinyTensors(const std::string& folder, const std::vector<TinyTensor>& tensors,
                      int shards) {
  if (shards == 1) {
    WriteFile(folder + "/model.safetensors", SafetensorsBytes(tensors));
    return;
  }
  json map = json::object();
  for (int shard = 0; shard < shards; ++shard) {
    char name[64];
    std::snprintf(name, sizeof(name), "model-%05d-of-%05d.safetensors", shard + 1, shards);
    std::vector<TinyTensor> part;
    for (size_t i = static_cast<size_t>(shard); i < tensors.size(); i += shards) {
      part.push_back(tensors[i]);
      map[tensors[i].name] = name;
    }
    WriteFile(folder + "/" + name, SafetensorsBytes(part));
  }
  WriteFile(folder + "/model.safetensors.index.json",
            json{{"metadata", {{"total_size", 0}}}, {"weight_map", map}}.dump());
}

void WriteTinyCheckpoint(const std::string& folder, const json& config, int shards, uint64_t seed) {
  const absl::StatusOr<Config> parsed = ParseConfig(config.dump(), "");
  CHECK(parsed.ok());
  WriteFile(folder + "/config.json", config.dump(2));
  WriteTinyTensors(folder, TinyTensors(*parsed, seed), shards);
}

}  // namespace tuppence
