// Tiny Phi-3 checkpoint folders, and safetensors files of any content, honest or not. For the tests
// of the loaders and of everything that starts from a folder.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"
#include "nlohmann/json.hpp"

namespace tuppence {

// A folder under the system's temporary folder, removed with all in it when this goes.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

void WriteFile(const std::string& path, const std::string& bytes);
std::string ReadFile(const std::string& path);

// A safetensors file: the header's length, the header, the data.
std::string SafetensorsBytes(const std::string& header, const std::string& data);
std::string SafetensorsBytes(const nlohmann::json& header, const std::string& data);

// A tensor of a tiny checkpoint: bytes are little-endian, as in the file.
struct TinyTensor {
  std::string name;
  std::string dtype;  // "F32", "BF16", "F16"
  std::vector<int64_t> shape;
  std::string bytes;
};

// An honest file of these tensors.
std::string SafetensorsBytes(const std::vector<TinyTensor>& tensors);

// A config.json of a small model that is valid in every field: 2 layers, hidden 32, 4 heads,
// 2 KV heads, intermediate 48, vocab 40, positions 64, bf16. Change what a test is about.
nlohmann::json TinyConfigJson();

// All tensors of the config with pseudo-random values of a few tenths, of type config.dtype.
std::vector<TinyTensor> TinyTensors(const Config& config, uint64_t seed = 1);

// Writes config.json and model.safetensors, or as many shards as asked for with their index.
void WriteTinyCheckpoint(const std::string& folder, const nlohmann::json& config, int shards = 1,
                         uint64_t seed = 1);
// The tensors alone, in the same way.
void WriteTinyTensors(const std::string& folder, const std::vector<TinyTensor>& tensors,
                      int shards = 1);

}  // namespace tuppence
