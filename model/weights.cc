// See weights.h.
#include "model/weights.h"

#include <algorithm>
#include <cstddef>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/check.h"
#include "model/convert.h"
#include "model/float16.h"
#include "model/phi3_tensors.h"
#include "model/quantize.h"
#include "model/weight_cache.h"

namespace tuppence {
namespace {

// Backends pack rows in tiles; chunks that start on a tile's border spare them half tiles.
constexpr int64_t kChunkRowsMultiple = 64;

// Where each tensor of the config is in the source.
using TensorIndex = std::unordered_map<std::string, size_t>;

std::string ShowShape(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

// Older exports carry the rope's frequencies, and some with tied embeddings carry the head as well.
// The published implementation reads neither: the config decides both.
bool IsRedundant(const Config& config, const std::string& name) {
  constexpr char kFrequencies[] = "self_attn.rotary_emb.inv_freq";
  const size_t at = name.rfind(kFrequencies);
  if (at != std::string::npos && at + sizeof(kFrequencies) - 1 == name.size()) return true;
  return config.tied_embeddings && name == kHeadName;
}

absl::Status CheckExtra(const Config& config, const SourceTensor& tensor) {
  if (IsRedundant(config, tensor.name)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      tensor.file, ": tensor ", tensor.name, " is not part of this model (", config.layers,
      " layers", config.tied_embeddings ? ", tied embeddings" : "",
      ", no biases, as config.json says); the files do not belong together or hold a variant that "
      "is not supported; download the folder again"));
}

// Names and shapes, in both directions, before anything is read.
absl::StatusOr<TensorIndex> MatchTensors(const Config& config, const WeightSource& source) {
  TensorIndex index;
  for (size_t i = 0; i < source.tensors().size(); ++i) index[source.tensors()[i].name] = i;
  std::unordered_set<std::string> expected;
  for (const Phi3Tensor& tensor : Phi3Tensors(config)) {
    expected.insert(tensor.name);
    const auto found = index.find(tensor.name);
    if (found == index.end()) {
      return absl::InvalidArgumentError(absl::StrCat(
          source.place(), ": tensor ", tensor.name, " ", ShowShape(tensor.shape),
          " is missing; config.json asks for it; the folder is incomplete; download it again"));
    }
    const SourceTensor& stored = source.tensors()[found->second];
    if (stored.shape != tensor.shape) {
      return absl::InvalidArgumentError(
          absl::StrCat(stored.file, ": tensor ", tensor.name, " has shape ",
                       ShowShape(stored.shape), ", expected ", ShowShape(tensor.shape),
                       " from config.json; the files do not belong together; download them again"));
    }
    // The plan of memory goes by config.json. Norms are few, and may be kept in f32.
    if (stored.type != config.dtype && stored.shape.size() > 1) {
      return absl::InvalidArgumentError(absl::StrCat(
          stored.file, ": tensor ", tensor.name, " is ", NameOf(stored.type),
          ", and config.json says ", NameOf(config.dtype),
          " (torch_dtype; without one bfloat16); download both from one revision, or let "
          "torch_dtype say what the files hold"));
    }
  }
  for (const SourceTensor& tensor : source.tensors()) {
    if (expected.contains(tensor.name)) continue;
    absl::Status extra = CheckExtra(config, tensor);
    if (!extra.ok()) return extra;
  }
  return index;
}

WeightType Stored(DType type) {
  switch (type) {
    case DType::kF32:
      return WeightType::kF32;
    case DType::kF16:
      return WeightType::kF16;
    default:
      CHECK(type == DType::kBf16);
      return WeightType::kBf16;
  }
}

bool SharesHead(const Config& config, const WeightOptions& options, DType embedding) {
  return config.tied_embeddings && HeadFormat(options.format).type == Stored(embedding);
}

// A tied embedding is kept in two formats.
std::string CachedName(const std::string& tensor, const Matrix& matrix) {
  return absl::StrCat(tensor, "/", NameOf(matrix.spec().format.type));
}

// Reads tensors in row chunks and hands them to the backend. Its buffers are the staging memory.
class Loader {
 public:
  Loader(WeightSource& source, const TensorIndex& index, const WeightOptions& options,
         const WeightCache* cache, Backend& backend)
      : source_(source), index_(index), options_(options), cache_(cache), backend_(backend) {
    for (const auto& [name, i] : index_) bytes_total_ += BytesOf(source_.tensors()[i]);
  }

  // Reads tensor `name` once into a new matrix of each format; from the cache where there is one.
  absl::StatusOr<std::vector<std::unique_ptr<Matrix>>> LoadMatrices(
      const std::string& name, const std::vector<WeightFormat>& formats, RowPairing pairing) {
    const SourceTensor& tensor = Find(name);
    const int64_t cols = tensor.shape[1];
    std::vector<std::unique_ptr<Matrix>> matrices;
    for (const WeightFormat& format : formats) {
      auto matrix = backend_.NewMatrix({tensor.shape[0], cols, format, pairing});
      if (!matrix.ok()) return InTensor(tensor, matrix.status());
      matrices.push_back(*std::move(matrix));
    }
    if (cache_ != nullptr) {
      for (const std::unique_ptr<Matrix>& matrix : matrices) {
        absl::Status read = cache_->Read(CachedName(name, *matrix), matrix->host_bytes());
        if (!read.ok()) return read;
      }
      Report(tensor);
      return matrices;
    }
    const int64_t chunk_rows = ChunkRows(tensor);
    for (int64_t row = 0; row < tensor.shape[0]; row += chunk_rows) {
      const int64_t rows = std::min(chunk_rows, tensor.shape[0] - row);
      absl::Status read = ReadChunk(tensor, row, rows);
      if (!read.ok()) return read;
      for (const std::unique_ptr<Matrix>& matrix : matrices) {
        absl::Status packed = PackChunk(tensor, row, rows, *matrix);
        if (!packed.ok()) return packed;
      }
    }
    Report(tensor);
    return matrices;
  }

  absl::StatusOr<std::unique_ptr<Matrix>> LoadMatrix(const std::string& name,
                                                     const WeightFormat& format,
                                                     RowPairing pairing = RowPairing::kNone) {
    auto matrices = LoadMatrices(name, {format}, pairing);
    if (!matrices.ok()) return matrices.status();
    return std::move(matrices->front());
  }

  // Reads norm `name` as f32 to `out`, device memory.
  absl::Status LoadNorm(const std::string& name, Tensor out) {
    const SourceTensor& tensor = Find(name);
    const int64_t hidden = tensor.shape[0];
    absl::Status read = ReadChunk(tensor, 0, hidden);
    if (!read.ok()) return read;
    floats_.resize(hidden);
    ConvertToF32(tensor.type, raw_.data(), hidden, floats_.data());
    backend_.CopyToDevice(floats_.data(), out.bytes(), out.data);
    Report(tensor);
    return absl::OkStatus();
  }

  const SourceTensor& Find(const std::string& name) const {
    return source_.tensors()[index_.at(name)];
  }

 private:
  static int64_t RowElements(const SourceTensor& tensor) {
    return tensor.shape.size() == 1 ? 1 : tensor.shape[1];
  }
  static int64_t BytesOf(const SourceTensor& tensor) {
    return tensor.shape[0] * RowElements(tensor) *
           static_cast<int64_t>(tuppence::BytesOf(tensor.type));
  }

  int64_t ChunkRows(const SourceTensor& tensor) const {
    const int64_t row_bytes =
        RowElements(tensor) * static_cast<int64_t>(tuppence::BytesOf(tensor.type));
    const int64_t rows = std::max<int64_t>(1, options_.staging_bytes / row_bytes);
    return rows < kChunkRowsMultiple ? rows : rows / kChunkRowsMultiple * kChunkRowsMultiple;
  }

  static absl::Status InTensor(const SourceTensor& tensor, const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat(tensor.file, ": loading tensor ", tensor.name,
                                                    ": ", std::string(status.message())));
  }

  // Rows of a tensor, as stored, into raw_; searched for what is no number.
  absl::Status ReadChunk(const SourceTensor& tensor, int64_t row, int64_t rows) {
    const int64_t count = rows * RowElements(tensor);
    raw_.resize(count * tuppence::BytesOf(tensor.type));
    absl::Status read = source_.ReadRows(index_.at(tensor.name), row, rows, raw_.data());
    if (!read.ok()) return read;
    const int64_t bad = FindNotFinite(tensor.type, raw_.data(), count);
    if (bad < 0) return absl::OkStatus();
    const size_t value_bytes = tuppence::BytesOf(tensor.type);
    const float value = ToFloatExact(tensor.type, raw_.data() + bad * value_bytes);
    const int64_t first = row + bad / RowElements(tensor);
    const std::string place = tensor.shape.size() == 1
                                  ? absl::StrCat("[", first, "]")
                                  : absl::StrCat("[", first, ", ", bad % RowElements(tensor), "]");
    return absl::InvalidArgumentError(absl::StrCat(
        tensor.file, ": tensor ", tensor.name, " holds ", value, " at ", place,
        "; every weight must be a finite number; the file is damaged or the training went wrong; "
        "download it again"));
  }

  static float ToFloatExact(DType type, const void* value) {
    if (type == DType::kF32) return *static_cast<const float*>(value);
    if (type == DType::kBf16) return ToFloat(*static_cast<const Bf16*>(value));
    return ToFloat(*static_cast<const F16*>(value));
  }

  // Rows in raw_ to the matrix's canonical form, then to the backend.
  absl::Status PackChunk(const SourceTensor& tensor, int64_t row, int64_t rows, Matrix& matrix) {
    MatrixRows packed;
    packed.format = matrix.spec().format;
    packed.first_row = row;
    packed.rows = rows;
    packed.cols = matrix.spec().cols;
    if (packed.format.quantised()) {
      absl::Status quantised = QuantiseChunk(tensor, packed);
      if (!quantised.ok()) return quantised;
    } else if (packed.format.type == Stored(tensor.type)) {
      packed.values = raw_.data();
    } else if (packed.format.type == WeightType::kF32) {
      floats_.resize(rows * packed.cols);
      ConvertToF32(tensor.type, raw_.data(), rows * packed.cols, floats_.data());
      packed.values = floats_.data();
    } else if (packed.format.type == WeightType::kF16) {
      absl::Status converted = ConvertChunkToF16(tensor, packed);
      if (!converted.ok()) return converted;
    } else {
      CHECK(packed.format.type == WeightType::kBf16);
      halves_.resize(rows * packed.cols);
      ConvertToBf16(tensor.type, raw_.data(), rows * packed.cols, halves_.data());
      packed.values = halves_.data();
    }
    backend_.PackRows(packed, matrix);
    return absl::OkStatus();
  }

  absl::Status ConvertChunkToF16(const SourceTensor& tensor, MatrixRows& packed) {
    f16_.resize(packed.rows * packed.cols);
    const int64_t too_large =
        ConvertToF16(tensor.type, raw_.data(), packed.rows * packed.cols, f16_.data());
    packed.values = f16_.data();
    if (too_large < 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(tensor.file, ": tensor ", tensor.name, " holds a value too large for f16 at [",
                     packed.first_row + too_large / packed.cols, ", ", too_large % packed.cols,
                     "] (f16 ends at 65504); pass --weights int8"));
  }

  absl::Status QuantiseChunk(const SourceTensor& tensor, MatrixRows& packed) {
    const int64_t groups = GroupsOf(packed.cols, packed.format.group);
    codes_.resize(packed.rows * packed.cols);
    scales_.resize(packed.rows * groups);
    floats_.resize(packed.cols);
    const size_t row_bytes = packed.cols * tuppence::BytesOf(tensor.type);
    for (int64_t row = 0; row < packed.rows; ++row) {
      ConvertToF32(tensor.type, raw_.data() + row * row_bytes, packed.cols, floats_.data());
      QuantiseRows(floats_.data(), 1, packed.cols, packed.format, codes_.data() + row * packed.cols,
                   scales_.data() + row * groups);
    }
    packed.values = codes_.data();
    packed.scales = scales_.data();
    const auto saturated = std::find(scales_.begin(), scales_.end(), kScaleMaxBits);
    if (saturated == scales_.end()) return absl::OkStatus();
    const int64_t at = saturated - scales_.begin();
    return absl::InvalidArgumentError(absl::StrCat(
        tensor.file, ": tensor ", tensor.name, " holds values too large for ",
        NameOf(packed.format.type), " in row ", packed.first_row + at / groups, ", group ",
        at % groups, " (an f16 scale ends at 65504); pass --weights bf16"));
  }

  void Report(const SourceTensor& tensor) {
    bytes_done_ += BytesOf(tensor);
    if (options_.progress) options_.progress(bytes_done_, bytes_total_);
  }

  WeightSource& source_;
  const TensorIndex& index_;
  const WeightOptions& options_;
  const WeightCache* const cache_;  // null: the source's tensors
  Backend& backend_;
  int64_t bytes_done_ = 0;
  int64_t bytes_total_ = 0;
  std::vector<std::byte> raw_;  // new'd memory: aligned for every type
  std::vector<float> floats_;
  std::vector<Bf16> halves_;
  std::vector<F16> f16_;
  std::vector<int8_t> codes_;
  std::vector<uint16_t> scales_;
};

Tensor NormRow(const Buffer& norms, int64_t row, int64_t hidden) {
  return Tensor(static_cast<float*>(norms.data()) + row * hidden, DType::kF32, {hidden});
}

absl::StatusOr<LayerWeights> LoadLayer(const Config& config, const WeightFormat& format,
                                       int32_t layer, const Buffer& norms, Loader& loader) {
  LayerWeights weights;
  weights.input_norm = NormRow(norms, 2 * layer, config.hidden);
  weights.post_norm = NormRow(norms, 2 * layer + 1, config.hidden);
  const auto matrix = [&](const char* part, RowPairing pairing, std::unique_ptr<Matrix>& out) {
    auto loaded = loader.LoadMatrix(LayerTensorName(layer, part), format, pairing);
    if (loaded.ok()) out = *std::move(loaded);
    return loaded.status();
  };
  absl::Status status = loader.LoadNorm(LayerTensorName(layer, kInputNormPart), weights.input_norm);
  if (status.ok()) status = matrix(kQkvPart, RowPairing::kNone, weights.qkv);
  if (status.ok()) status = matrix(kOutputPart, RowPairing::kNone, weights.o);
  if (status.ok()) {
    status = loader.LoadNorm(LayerTensorName(layer, kPostNormPart), weights.post_norm);
  }
  if (status.ok()) status = matrix(kGateUpPart, RowPairing::kGateUp, weights.gate_up);
  if (status.ok()) status = matrix(kDownPart, RowPairing::kNone, weights.down);
  if (!status.ok()) return status;
  return weights;
}

// The embedding, and the head: shared, made from the same rows, or a tensor of its own.
absl::Status LoadEnds(const Config& config, const WeightOptions& options, Loader& loader,
                      Weights& weights) {
  const WeightFormat head = HeadFormat(options.format);
  const DType stored = loader.Find(kEmbeddingName).type;
  std::vector<WeightFormat> formats = {{Stored(stored), 0}};
  if (config.tied_embeddings && !SharesHead(config, options, stored)) formats.push_back(head);
  auto matrices = loader.LoadMatrices(kEmbeddingName, formats, RowPairing::kNone);
  if (!matrices.ok()) return matrices.status();
  weights.embedding = std::move(matrices->front());
  if (formats.size() == 2) weights.own_head = std::move(matrices->back());
  if (config.tied_embeddings) return absl::OkStatus();
  auto own = loader.LoadMatrix(kHeadName, head);
  if (own.ok()) weights.own_head = *std::move(own);
  return own.status();
}

int64_t MatrixBytes(const Weights& weights) {
  int64_t bytes = weights.embedding->bytes() + (weights.own_head ? weights.own_head->bytes() : 0);
  for (const LayerWeights& layer : weights.layers) {
    bytes += layer.qkv->bytes() + layer.o->bytes() + layer.gate_up->bytes() + layer.down->bytes();
  }
  return bytes;
}

int64_t MatrixBytes(int64_t rows, int64_t cols, const WeightFormat& format) {
  switch (format.type) {
    case WeightType::kF32:
      return rows * cols * 4;
    case WeightType::kBf16:
    case WeightType::kF16:
      return rows * cols * 2;
    case WeightType::kInt8:
      return rows * (cols + 2 * GroupsOf(cols, format.group));
    case WeightType::kInt4:
      return rows * ((cols + 1) / 2 + 2 * GroupsOf(cols, format.group));
  }
  return 0;
}

absl::StatusOr<Weights> LoadAll(const Config& config, WeightSource& source,
                                const TensorIndex& index, const WeightOptions& options,
                                const WeightCache* cache, Backend& backend) {
  Loader loader(source, index, options, cache, backend);

  Weights weights;
  const int64_t norm_rows = 2 * config.layers + 1;
  const size_t norms_bytes = static_cast<size_t>(norm_rows) * config.hidden * sizeof(float);
  auto norms = backend.Allocate(norms_bytes);
  if (!norms.ok()) return norms.status();
  weights.norms = *std::move(norms);

  const absl::Status ends = LoadEnds(config, options, loader, weights);
  if (!ends.ok()) return ends;
  for (int32_t layer = 0; layer < config.layers; ++layer) {
    auto loaded = LoadLayer(config, options.format, layer, *weights.norms, loader);
    if (!loaded.ok()) return loaded.status();
    weights.layers.push_back(*std::move(loaded));
  }
  weights.final_norm = NormRow(*weights.norms, norm_rows - 1, config.hidden);
  const absl::Status final_norm = loader.LoadNorm(kFinalNormName, weights.final_norm);
  if (!final_norm.ok()) return final_norm;
  weights.bytes = MatrixBytes(weights) + static_cast<int64_t>(norms_bytes);
  return weights;
}

// The matrices, under the names that Loader reads them by.
std::vector<CachedMatrix> CachedMatrices(const Config& config, const Weights& weights) {
  std::vector<CachedMatrix> matrices;
  const auto add = [&](const std::string& tensor, const std::unique_ptr<Matrix>& matrix) {
    if (matrix) matrices.push_back({CachedName(tensor, *matrix), matrix->host_bytes()});
  };
  add(kEmbeddingName, weights.embedding);
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    const auto layer = static_cast<int32_t>(i);
    add(LayerTensorName(layer, kQkvPart), weights.layers[i].qkv);
    add(LayerTensorName(layer, kOutputPart), weights.layers[i].o);
    add(LayerTensorName(layer, kGateUpPart), weights.layers[i].gate_up);
    add(LayerTensorName(layer, kDownPart), weights.layers[i].down);
  }
  add(config.tied_embeddings ? kEmbeddingName : kHeadName, weights.own_head);
  return matrices;
}

absl::StatusOr<Weights> WithNote(absl::StatusOr<Weights> weights, std::string note) {
  if (weights.ok()) weights->cache_note = std::move(note);
  return weights;
}

}  // namespace

absl::StatusOr<Weights> LoadWeights(const Config& config, WeightSource& source,
                                    const WeightOptions& options, Backend& backend) {
  const absl::StatusOr<TensorIndex> index = MatchTensors(config, source);
  if (!index.ok()) return index.status();
  const auto load = [&](const WeightCache* cache) {
    return LoadAll(config, source, *index, options, cache, backend);
  };
  if (options.cache_path.empty()) return load(nullptr);
  if (backend.layout_id().empty()) {
    return WithNote(load(nullptr), absl::StrCat("weight cache: none on ", backend.name(),
                                                ", whose memory is its own"));
  }
  const absl::StatusOr<std::string> key =
      WeightCacheKey(source, options.format, backend.layout_id());
  if (!key.ok()) {
    return WithNote(load(nullptr), absl::StrCat("weight cache: none, ", key.status().message()));
  }
  const absl::StatusOr<WeightCache> cache = WeightCache::Open(options.cache_path, *key);
  absl::Status unread = cache.status();
  if (cache.ok()) {
    absl::StatusOr<Weights> weights = load(&*cache);
    if (weights.ok()) {
      return WithNote(std::move(weights),
                      absl::StrCat("weight cache: read from ", options.cache_path));
    }
    if (!absl::IsDataLoss(weights.status())) return weights;
    unread = weights.status();
  }
  absl::StatusOr<Weights> weights = load(nullptr);
  if (!weights.ok()) return weights;
  const absl::Status written =
      WriteWeightCache(options.cache_path, *key, CachedMatrices(config, *weights));
  return WithNote(std::move(weights),
                  written.ok() ? absl::StrCat("weight cache: written to ", options.cache_path, " (",
                                              unread.message(), ")")
                               : absl::StrCat("weight cache: not written, ", written.message()));
}

WeightPlan PlanWeights(const Config& config, const WeightOptions& options) {
  const int64_t hidden = config.hidden;
  const WeightFormat& format = options.format;
  const WeightFormat embedding = {Stored(config.dtype), 0};
  WeightPlan plan;
  plan.embedding_bytes = MatrixBytes(config.vocab, hidden, embedding);
  plan.layers_bytes =
      config.layers * (MatrixBytes(config.qkv_rows(), hidden, format) +
                       MatrixBytes(hidden, config.attention_cols(), format) +
                       MatrixBytes(int64_t{2} * config.intermediate, hidden, format) +
                       MatrixBytes(hidden, config.intermediate, format));
  plan.norms_bytes = (int64_t{2} * config.layers + 1) * hidden * 4;
  if (!SharesHead(config, options, config.dtype)) {
    plan.head_bytes = MatrixBytes(config.vocab, hidden, HeadFormat(format));
  }
  // A chunk as stored, and the same rows converted: twice the bytes where 16 bits become 32.
  plan.staging_bytes = 3 * options.staging_bytes;
  return plan;
}

}  // namespace tuppence
