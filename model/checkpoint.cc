// See checkpoint.h.
#include "model/checkpoint.h"

#include <map>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "model/file.h"
#include "model/safetensors.h"
#include "model/sha256_sums.h"
#include "model/strict_json.h"
#include "model/synthetic.h"

namespace tuppence {
namespace {

using nlohmann::json;

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";
constexpr int64_t kIndexBytesMax = int64_t{64} << 20;
constexpr size_t kShardsMax = 1024;

class Checkpoint : public WeightSource {
 public:
  Checkpoint(std::string folder, std::vector<SafetensorsFile> files)
      : folder_(std::move(folder)), files_(std::move(files)) {
    for (size_t f = 0; f < files_.size(); ++f) {
      for (size_t t = 0; t < files_[f].tensors().size(); ++t) {
        tensors_.push_back(files_[f].tensors()[t]);
        places_.emplace_back(f, t);
      }
    }
  }

  std::string place() const override { return folder_; }
  const std::vector<SourceTensor>& tensors() const override { return tensors_; }

  absl::Status ReadRows(size_t index, int64_t first_row, int64_t rows, void* out) override {
    const auto& [file, tensor] = places_[index];
    return files_[file].ReadRows(tensor, first_row, rows, out);
  }

 private:
  std::string folder_;
  std::vector<SafetensorsFile> files_;
  std::vector<SourceTensor> tensors_;
  std::vector<std::pair<size_t, size_t>> places_;  // file, tensor in it
};

// Which file the index says holds each tensor.
using WeightMap = std::map<std::string, std::string>;

absl::StatusOr<WeightMap> ReadIndex(const std::string& path) {
  const auto refuse = [&path](const std::string& reason) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", reason, "; download it again"));
  };
  const absl::StatusOr<std::string> text = ReadSmallFile(path, kIndexBytesMax);
  if (!text.ok()) return text.status();
  const absl::StatusOr<json> index = ParseStrictJson(*text);
  if (!index.ok()) return refuse(std::string(index.status().message()));
  const json map = index->is_object() ? index->value("weight_map", json()) : json();
  if (!map.is_object() || map.empty()) {
    return refuse(absl::StrCat("weight_map is ", ShowJson(map),
                               "; expected is an object from tensor name to file name"));
  }
  WeightMap files;
  for (const auto& [tensor, file] : map.items()) {
    if (!file.is_string() || !IsPlainFileName(file.get<std::string>())) {
      return refuse(absl::StrCat("tensor ", ShowJson(tensor), " is said to be in file ",
                                 ShowJson(file),
                                 "; allowed is the name of a file in this folder, "
                                 "without a path"));
    }
    files[tensor] = file.get<std::string>();
  }
  return files;
}

// The index and the shards must agree in both directions.
absl::Status CheckIndex(const std::string& index_path, const WeightMap& index,
                        const std::vector<SafetensorsFile>& files, const std::string& folder) {
  std::unordered_map<std::string, std::string> found;  // tensor -> path
  for (const SafetensorsFile& file : files) {
    for (const SourceTensor& tensor : file.tensors()) {
      const auto [before, is_new] = found.emplace(tensor.name, file.path());
      if (!is_new) {
        return absl::InvalidArgumentError(
            absl::StrCat(file.path(), ": tensor ", ShowJson(tensor.name), " is also in ",
                         before->second, "; expected is one of them; download the folder again"));
      }
      if (!index.contains(tensor.name)) {
        return absl::InvalidArgumentError(
            absl::StrCat(file.path(), ": tensor ", ShowJson(tensor.name), " is not listed in ",
                         index_path, "; the files do not belong together; download them again"));
      }
    }
  }
  for (const auto& [tensor, file] : index) {
    const auto place = found.find(tensor);
    const std::string path = absl::StrCat(folder, "/", file);
    if (place != found.end() && place->second == path) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(index_path, ": tensor ", ShowJson(tensor), " should be in ", path, ", but is ",
                     place == found.end() ? "missing" : absl::StrCat("in ", place->second),
                     "; the files do not belong together; download them again"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<SafetensorsFile>> OpenShards(const std::string& folder) {
  const std::string index_path = absl::StrCat(folder, "/", kIndexFile);
  const absl::StatusOr<WeightMap> index = ReadIndex(index_path);
  if (!index.ok()) return index.status();
  std::set<std::string> names;
  for (const auto& [tensor, file] : *index) names.insert(file);
  if (names.size() > kShardsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(index_path, ": it names ", names.size(), " files; allowed are ", kShardsMax));
  }
  std::vector<SafetensorsFile> files;
  for (const std::string& name : names) {
    absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(absl::StrCat(folder, "/", name));
    if (!file.ok()) return file.status();
    files.push_back(*std::move(file));
  }
  const absl::Status agree = CheckIndex(index_path, *index, files, folder);
  if (!agree.ok()) return agree;
  return files;
}

}  // namespace

absl::StatusOr<std::unique_ptr<WeightSource>> OpenCheckpoint(const std::string& folder) {
  absl::StatusOr<SafetensorsFile> single =
      SafetensorsFile::Open(absl::StrCat(folder, "/", kSingleFile));
  if (single.ok()) {
    std::vector<SafetensorsFile> files;
    files.push_back(*std::move(single));
    return std::make_unique<Checkpoint>(folder, std::move(files));
  }
  if (!absl::IsNotFound(single.status())) return single.status();

  absl::StatusOr<std::vector<SafetensorsFile>> shards = OpenShards(folder);
  if (shards.ok()) return std::make_unique<Checkpoint>(folder, *std::move(shards));
  const std::string index_path = absl::StrCat(folder, "/", kIndexFile);
  if (absl::IsNotFound(shards.status()) && !File::Open(index_path).ok()) {
    return absl::NotFoundError(absl::StrCat(
        folder, " holds neither ", kSingleFile, " nor ", kIndexFile,
        "; a model folder holds config.json, the tokenizer's files and safetensors files, as "
        "downloaded (pytorch_model.bin and GGUF files are not read)"));
  }
  return shards.status();
}

absl::StatusOr<ModelFiles> OpenModel(const std::string& model) {
  if (IsSyntheticName(model)) {
    absl::StatusOr<Config> config = SyntheticConfig(model);
    if (!config.ok()) return config.status();
    std::unique_ptr<WeightSource> source = MakeSyntheticWeights(*config);
    return ModelFiles{*std::move(config), std::move(source), 0};
  }
  const absl::StatusOr<int> compared = CheckSha256Sums(model);
  if (!compared.ok()) return compared.status();
  absl::StatusOr<Config> config = ReadConfig(model);
  if (!config.ok()) return config.status();
  absl::StatusOr<std::unique_ptr<WeightSource>> source = OpenCheckpoint(model);
  if (!source.ok()) return source.status();
  return ModelFiles{*std::move(config), *std::move(source), *compared};
}

}  // namespace tuppence
