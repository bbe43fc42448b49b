#include "bench/gpu_steps.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <numeric>
#include <random>

#include "absl/strings/str_cat.h"
#include "bench/gpu_device.h"
#include "model/check.h"
#include "model/kv_cache.h"
#include "model/phi3.h"
#include "model/quantize.h"
#include "model/synthetic.h"
#include "model/weights.h"

namespace tuppence {
namespace {

constexpr int64_t kFillRows = 128;
constexpr int32_t kBlockTokens = 16;

// Weights of any shape, the same few pseudo-random rows over and over: what they are costs a GPU
// nothing, that they are no zeros keeps its clocks honest.
class FilledWeights {
 public:
  FilledWeights(const Config& config, const WeightFormat& format, DType half, Backend& backend)
      : backend_(backend) {
    const int64_t h = config.hidden, attended = int64_t{config.heads} * config.head_dim;
    const int64_t qkv = int64_t{config.heads + 2 * config.kv_heads} * config.head_dim;
    const WeightFormat stored{half == DType::kF16 ? WeightType::kF16 : WeightType::kBf16, 0};
    WeightFormat head = format;
    if (format.quantised()) head = *ParseWeightFormat("int8");
    weights_.embedding = Make({config.vocab, h, stored, RowPairing::kNone});
    weights_.own_head = Make({config.vocab, h, head, RowPairing::kNone});
    Keep(backend_.Allocate(static_cast<size_t>(h) * sizeof(float)), &weights_.norms);
    if (!status_.ok()) return;
    const std::vector<float> ones(h, 1.0f);
    backend_.CopyToDevice(ones.data(), ones.size() * sizeof(float), weights_.norms->data());
    weights_.final_norm = Tensor(weights_.norms->data(), DType::kF32, {h});
    for (int32_t i = 0; i < config.layers; ++i) {
      LayerWeights& layer = weights_.layers.emplace_back();
      layer.input_norm = layer.post_norm = weights_.final_norm;
      layer.qkv = Make({qkv, h, format, RowPairing::kNone});
      layer.o = Make({h, attended, format, RowPairing::kNone});
      layer.gate_up = Make({2 * int64_t{config.intermediate}, h, format, RowPairing::kGateUp});
      layer.down = Make({h, config.intermediate, format, RowPairing::kNone});
    }
  }

  const absl::Status& status() const { return status_; }
  const Weights& weights() const { return weights_; }

 private:
  template <typename T>
  void Keep(absl::StatusOr<std::unique_ptr<T>> made, std::unique_ptr<T>* to) {
    if (made.ok()) *to = *std::move(made);
    status_.Update(made.status());
  }

  std::unique_ptr<Matrix> Make(const MatrixSpec& spec) {
    std::unique_ptr<Matrix> matrix;
    if (status_.ok()) Keep(backend_.NewMatrix(spec), &matrix);
    if (matrix == nullptr) return nullptr;
    weights_.bytes += matrix->bytes();
    Fill(*matrix);
    return matrix;
  }

  // The first rows come from the host; the device copies them until the matrix is full.
  void Fill(Matrix& matrix) {
    const MatrixSpec& spec = matrix.spec();
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0.0f, 0.02f);
    const bool gated = spec.pairing == RowPairing::kGateUp;
    const int64_t half = gated ? spec.rows / 2 : spec.rows;
    MatrixRows rows{.format = spec.format, .cols = spec.cols};
    rows.rows = std::min(kFillRows, half);
    const int64_t count = rows.rows * spec.cols;
    std::vector<int8_t> codes(spec.format.quantised() ? count : 0);
    std::vector<uint16_t> halves(spec.format.quantised() ? 0 : count), scales;
    if (spec.format.quantised()) {
      std::vector<float> values(count);
      for (float& value : values) value = normal(random);
      scales.resize(rows.rows * GroupsOf(spec.cols, spec.format.group));
      QuantiseRows(values.data(), rows.rows, spec.cols, spec.format, codes.data(), scales.data());
      rows.values = codes.data();
      rows.scales = scales.data();
    } else {
      for (uint16_t& value : halves) {
        value = spec.format.type == WeightType::kF16 ? ToF16(normal(random)).bits
                                                     : ToBf16(normal(random)).bits;
      }
      rows.values = halves.data();
    }
    backend_.PackRows(rows, matrix);
    rows.first_row = half;
    if (gated) backend_.PackRows(rows, matrix);
    status_.Update(RepeatRows(backend_, matrix, rows.rows));
  }

  Backend& backend_;
  Weights weights_;
  absl::Status status_;
};

// The arrays of a step of sequences that each have `tokens` last positions of `context`.
struct StepBatch {
  std::vector<int32_t> ids, positions, slots, starts = {0}, tables, logit_tokens;
  std::vector<RopeRegime> regimes;
  std::vector<Phase> phases;
  std::vector<SamplingRow> sampling;
  int32_t blocks_each;

  StepBatch(int32_t sequences, int32_t tokens, int32_t context, Phase phase, int32_t vocab)
      : blocks_each((context + kBlockTokens - 1) / kBlockTokens) {
    tables.resize(sequences * blocks_each);
    std::iota(tables.begin(), tables.end(), 0);
    for (int32_t s = 0; s < sequences; ++s) {
      for (int32_t t = context - tokens; t < context; ++t) {
        ids.push_back((s * 131 + t * 7) % vocab);
        positions.push_back(t);
        slots.push_back(s * blocks_each * kBlockTokens + t);
      }
      starts.push_back(static_cast<int32_t>(ids.size()));
      logit_tokens.push_back(starts.back() - 1);
      sampling.emplace_back().logit_row = s;
    }
    regimes.assign(ids.size(), RopeRegime::kShort);
    phases.assign(sequences, phase);
  }

  Batch view() const {
    return {ids, positions, regimes, slots, starts, phases, tables, blocks_each, logit_tokens};
  }
};

class StepBench {
 public:
  StepBench(Backend& backend, const Config& config, const StepSizes& sizes,
            const WeightFormat& format, DType half, std::string weights_name)
      : backend_(backend),
        config_(config),
        sizes_(sizes),
        weights_name_(std::move(weights_name)),
        filled_(config, format, half, backend),
        mapped_((config.vocab + 63) / 64, ~uint64_t{0}) {}

  void Run(DType kv) {
    for (const int32_t batch : sizes_.batches) {
      Run(kv, batch, 1, sizes_.context, Phase::kDecode);
    }
    Run(kv, 1, sizes_.prompt, sizes_.prompt, Phase::kPrefill);
  }

 private:
  void Run(DType kv, int32_t sequences, int32_t tokens, int32_t context, Phase phase) {
    std::vector<std::pair<std::string, std::string>> labels = {
        {"step", phase == Phase::kDecode ? "decode" : "prefill"},
        {"weights", weights_name_},
        {"kv", NameOf(kv)},
        {"batch", absl::StrCat(sequences)},
        {"tokens", absl::StrCat(sequences * tokens)},
        {"context", absl::StrCat(context)}};
    const absl::StatusOr<Measured> measured = Measure(kv, sequences, tokens, context, phase);
    if (measured.ok()) return PrintMeasured(labels, *measured);
    labels.push_back({"left_out", std::string(measured.status().message())});
    PrintMeasured(labels, {});
  }

  absl::StatusOr<Measured> Measure(DType kv, int32_t sequences, int32_t tokens, int32_t context,
                                   Phase phase) {
    if (!filled_.status().ok()) return filled_.status();
    const StepBatch batch(sequences, tokens, context, phase, config_.vocab);
    const KvLayout layout{.type = kv,
                          .layers = config_.layers,
                          .kv_heads = config_.kv_heads,
                          .head_dim = config_.head_dim,
                          .block_tokens = kBlockTokens};
    const absl::StatusOr<KvCache> cache =
        KvCache::Make(layout, sequences * batch.blocks_each, backend_);
    if (!cache.ok()) return cache.status();
    absl::StatusOr<Phi3> model =
        Phi3::Make(config_, filled_.weights(), backend_, sequences * tokens, sequences);
    if (!model.ok()) return model.status();
    std::vector<SampledToken> sampled(sequences);
    const double seconds = SecondsOf(
        sizes_.seconds,
        [&](int) {
          const SamplingBatch sampling = {batch.sampling, mapped_};
          backend_.Sample(model->Forward(batch.view(), sampling, *cache), sampled);
          CHECK(backend_.Synchronize().ok());  // a step ends with its tokens on the host
        },
        [this] { return backend_.Synchronize(); });
    return Measured{seconds, BytesOf(layout, sequences, context),
                    FlopOf(sequences * tokens, context, phase)};
  }

  // Weights once, but for the embedding, of which a step reads a few rows; keys and values once.
  double BytesOf(const KvLayout& layout, int32_t sequences, int32_t context) const {
    const Weights& weights = filled_.weights();
    return static_cast<double>(weights.bytes - weights.embedding->bytes()) +
           static_cast<double>(layout.bytes_per_token()) * sequences * context;
  }

  double FlopOf(int32_t tokens, int32_t context, Phase phase) const {
    const double h = config_.hidden, attended = double(config_.heads) * config_.head_dim;
    const double qkv = double(config_.heads + 2 * config_.kv_heads) * config_.head_dim;
    const double layer = h * qkv + attended * h + 3 * h * config_.intermediate;
    const double keys = phase == Phase::kDecode ? context : context / 2.0;
    const double head_rows = phase == Phase::kDecode ? tokens : 1;
    return 2 * (config_.layers * (layer + 2 * attended * keys) * tokens +
                head_rows * h * config_.vocab);
  }

  Backend& backend_;
  const Config& config_;
  const StepSizes& sizes_;
  std::string weights_name_;
  FilledWeights filled_;
  std::vector<uint64_t> mapped_;
};

Config ConfigOf(const StepSizes& sizes) {
  if (!sizes.model.empty()) return *SyntheticConfig(sizes.model);
  Config config = *SyntheticConfig("synthetic:phi-3-mini-4k");
  config.layers = 2;
  config.heads = config.kv_heads = 2;
  config.head_dim = config.rotary_dim = 64;
  config.hidden = 128;
  config.intermediate = 136;
  config.vocab = 200;
  return config;
}

}  // namespace

StepSizes TinyStepSizes() {
  return {.model = "", .batches = {2}, .context = 40, .prompt = 20, .seconds = 0};
}

void MeasureSteps(Backend& backend, DType half, const StepSizes& sizes) {
  const Config config = ConfigOf(sizes);
  for (const char* name : {half == DType::kF16 ? "f16" : "bf16", "int8", "int4"}) {
    StepBench bench(backend, config, sizes, *ParseWeightFormat(name), half, name);
    for (const DType kv : {half, DType::kI8}) bench.Run(kv);
  }
}

void PrintMeasured(const std::vector<std::pair<std::string, std::string>>& labels,
                   const Measured& measured) {
  std::string line = "{";
  for (const auto& [name, value] : labels) {
    absl::StrAppend(&line, "\"", name, "\": \"", value, "\", ");
  }
  std::printf("%s\"seconds\": %.9g, \"bytes\": %.9g, \"flop\": %.9g}\n", line.c_str(),
              measured.seconds, measured.bytes, measured.flop);
  std::fflush(stdout);
}

double SecondsOf(double seconds_min, const std::function<void(int)>& call,
                 const std::function<absl::Status()>& wait) {
  const auto check = [&] {
    const absl::Status status = wait();
    if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
    CHECK(status.ok());
  };
  call(0);
  check();
  for (int count = 1;; count *= 4) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < count; ++i) call(i);
    check();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    if (took.count() >= seconds_min) return took.count() / count;
  }
}

}  // namespace tuppence
