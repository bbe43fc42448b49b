// gpu_bench: the time of each GPU kernel at the shapes of Phi-3-mini, and of whole decode and
// prefill steps; one JSON object a line. bench/gpu_check.sh runs it, bench/gpu_report.py makes a
// table of it.
//
//   gpu_bench               on the GPU
//   gpu_bench --only=int4   those kernels alone that have it in their name; `step` for whole steps
//   gpu_bench --emulated    tiny shapes on the emulated GPU: shows that it runs; its times mean
//   nothing
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bench/gpu_device.h"
#include "bench/gpu_steps.h"
#include "cuda/cuda_backend.h"
#include "model/check.h"
#include "model/weights.h"

namespace tuppence {
namespace {

// Sizes of a run; the second set is for the emulated GPU.
struct Sizes {
  int64_t hidden = 3072, intermediate = 8192, vocab = 32064;
  int32_t heads = 32, head_dim = 96;
  int32_t context = 1024, prompt = 2048;
  std::vector<int64_t> rows = {1, 8, 32, 64, 512};
  std::vector<int32_t> sequences = {1, 8, 32, 128};
  int64_t cold_bytes = int64_t{512} << 20;  // of weights that take turns: more than any cache
  double seconds = 0;                       // of each measurement, at least
};
Sizes Tiny() {
  return {.hidden = 128,
          .intermediate = 136,
          .vocab = 200,
          .heads = 2,
          .head_dim = 64,
          .context = 40,
          .prompt = 70,
          .rows = {1, 70},
          .sequences = {2},
          .cold_bytes = 0,
          .seconds = 0};
}

class Bench {
 public:
  Bench(Backend& backend, const Sizes& sizes, DType half)
      : backend_(backend), sizes_(sizes), half_(half) {}

  void Run(const std::string& only) {
    only_ = only;
    DeviceCopy();
    BlockCopy();
    for (const char* format : {half_ == DType::kF16 ? "f16" : "bf16", "int8", "int4"}) {
      Matmuls("matmul", *ParseWeightFormat(format), format, sizes_.rows);
    }
    for (const DType kv : {half_, DType::kI8}) {
      for (const int32_t sequences : sizes_.sequences) {
        Attention(kv, sequences, sizes_.context, 1, Phase::kDecode);
      }
      Attention(kv, 1, sizes_.prompt, sizes_.prompt, Phase::kPrefill);
    }
    Norms();
    for (const int32_t sequences : sizes_.sequences) BeginAndEnd(sequences);
  }

  // The other yardstick: a backend that multiplies by cuBLAS. 4,096 rows are enough for its rate.
  void RunCublas(const std::string& only) {
    only_ = only;
    std::vector<int64_t> rows = sizes_.rows;
    if (sizes_.cold_bytes > 0) rows.push_back(4096);
    const char* const format = half_ == DType::kF16 ? "f16" : "bf16";
    Matmuls("cublas", *ParseWeightFormat(format), format, rows);
  }

 private:
  std::unique_ptr<Buffer> Take(int64_t bytes) {
    absl::StatusOr<std::unique_ptr<Buffer>> memory = backend_.Allocate(static_cast<size_t>(bytes));
    if (!memory.ok()) std::fprintf(stderr, "%s\n", memory.status().ToString().c_str());
    CHECK(memory.ok());
    CHECK(FillOnDevice(backend_, (*memory)->data(), static_cast<size_t>(bytes)).ok());
    return *std::move(memory);
  }

  // Bytes that a call must move at least, and its operations.
  struct Work {
    double bytes = 0;
    double flop = 0;
  };

  void Measure(const std::string& kernel, const std::string& shape, const Work& work,
               const std::function<void(int)>& call) {
    Measure(kernel, shape, work, call, [this] { return backend_.Synchronize(); });
  }
  void Measure(const std::string& kernel, const std::string& shape, const Work& work,
               const std::function<void(int)>& call, const std::function<absl::Status()>& wait) {
    if (!absl::StrContains(kernel, only_)) return;
    PrintMeasured({{"kernel", kernel}, {"shape", shape}},
                  {SecondsOf(sizes_.seconds, call, wait), work.bytes, work.flop});
  }

  // The yardstick, read and written.
  void DeviceCopy() {
    const int64_t bytes = std::max<int64_t>(sizes_.cold_bytes, 4096);
    const std::unique_ptr<Buffer> from = Take(bytes), to = Take(bytes);
    Measure(
        "device copy", absl::StrCat(bytes, " bytes"), {2.0 * static_cast<double>(bytes)},
        [&](int) {
          CHECK(CopyOnDevice(backend_, to->data(), from->data(), static_cast<size_t>(bytes)).ok());
        },
        [this] { return WaitForDevice(backend_); });
  }

  // Whole blocks from one half of a pool to the other.
  void BlockCopy() {
    const int32_t blocks = sizes_.cold_bytes > 0 ? 1024 : 4;
    const int64_t block_bytes = int64_t{sizes_.heads} * 16 * sizes_.head_dim * 2;
    const std::unique_ptr<Buffer> memory = Take(blocks * block_bytes);
    KvLayer layer;
    layer.keys = Tensor(memory->data(), half_, {blocks, sizes_.heads, 16, sizes_.head_dim});
    std::vector<int32_t> from(blocks / 2), to(blocks / 2);
    std::iota(from.begin(), from.end(), 0);
    std::iota(to.begin(), to.end(), blocks / 2);
    Measure("block copy", absl::StrCat(blocks / 2, " blocks"),
            {static_cast<double>(blocks * block_bytes)},
            [&](int) { backend_.CopyBlocks(from, to, layer); });
  }

  void Matmuls(const std::string& by, const WeightFormat& format, const std::string& name,
               const std::vector<int64_t>& rows_of) {
    const int64_t hidden = sizes_.hidden;
    const std::vector<std::pair<const char*, MatrixSpec>> shapes = {
        {"qkv", {3 * hidden, hidden, format, RowPairing::kNone}},
        {"gate_up", {2 * sizes_.intermediate, hidden, format, RowPairing::kGateUp}},
        {"down", {hidden, sizes_.intermediate, format, RowPairing::kNone}}};
    for (const auto& [what, spec] : shapes) {
      std::vector<std::unique_ptr<Matrix>> weights;
      int64_t bytes = 0;
      do {
        weights.push_back(*backend_.NewMatrix(spec));
        CHECK(FillOnDevice(backend_, *weights.back()).ok());
        bytes += weights.back()->bytes();
      } while (bytes < sizes_.cold_bytes);
      const std::string kernel = absl::StrCat(by, " ", what, " ", name);
      for (const int64_t rows : rows_of) Matmul(kernel, spec, rows, weights);
    }
  }

  void Matmul(const std::string& kernel, const MatrixSpec& spec, int64_t rows,
              const std::vector<std::unique_ptr<Matrix>>& weights) {
    const bool gated = spec.pairing == RowPairing::kGateUp;
    const int64_t outputs = gated ? spec.rows / 2 : spec.rows;
    const std::unique_ptr<Buffer> in = Take(rows * spec.cols * 2), out = Take(rows * outputs * 4);
    const Tensor x(in->data(), half_, {rows, spec.cols});
    const Tensor y(out->data(), gated ? half_ : DType::kF32, {rows, outputs});
    Measure(kernel, absl::StrCat(rows, " rows"),
            {static_cast<double>(weights[0]->bytes()),
             2.0 * static_cast<double>(rows * spec.rows * spec.cols)},
            [&](int i) {
              const Matrix& w = *weights[static_cast<size_t>(i) % weights.size()];
              gated ? backend_.GatedMatmul(x, w, y) : backend_.Matmul(x, w, y);
            });
  }

  // `tokens` last positions of each of some sequences of `context` positions.
  void Attention(DType kv, int32_t sequences, int32_t context, int32_t tokens, Phase phase) {
    const int32_t heads = sizes_.heads, dim = sizes_.head_dim;
    const int32_t blocks = (context + 15) / 16;
    std::vector<int32_t> ids(sequences * tokens), positions, slots(ids.size()),
        starts = {0}, tables(sequences * blocks), none;
    std::vector<RopeRegime> regimes(ids.size(), RopeRegime::kShort);
    std::vector<Phase> phases(sequences, phase);
    std::iota(tables.begin(), tables.end(), 0);
    for (int32_t s = 0; s < sequences; ++s) {
      for (int32_t t = context - tokens; t < context; ++t) {
        slots[positions.size()] = s * blocks * 16 + t;
        positions.push_back(t);
      }
      starts.push_back((s + 1) * tokens);
    }
    const Batch batch = {ids, positions, regimes, slots, starts, phases, tables, blocks, none};
    const int64_t pages = int64_t{sequences} * blocks * heads * 16;
    const std::unique_ptr<Buffer> keys = Take(pages * dim * 2), values = Take(pages * dim * 2);
    const std::unique_ptr<Buffer> key_scales = Take(pages * 2), value_scales = Take(pages * 2);
    KvLayer layer;
    layer.keys = Tensor(keys->data(), kv, {sequences * blocks, heads, 16, dim});
    layer.values = Tensor(values->data(), kv, {sequences * blocks, heads, 16, dim});
    layer.key_scales = Tensor(key_scales->data(), DType::kF16, {sequences * blocks, heads, 16});
    layer.value_scales = Tensor(value_scales->data(), DType::kF16, {sequences * blocks, heads, 16});
    const int64_t rows = static_cast<int64_t>(ids.size());
    const std::unique_ptr<Buffer> qkv = Take(rows * 3 * heads * dim * 4);
    const std::unique_ptr<Buffer> out = Take(rows * heads * dim * 2);
    const Tensor in(qkv->data(), DType::kF32, {rows, 3 * heads * dim});
    const Tensor attended(out->data(), half_, {rows, heads * dim});
    const Batch& uploaded = backend_.Upload(batch, {});
    const AttentionShape shape = {heads, heads, dim, 0.1f, 0};
    const std::unique_ptr<Buffer> turns = Take(rows * dim * 4);
    const Tensor angles(turns->data(), DType::kF32, {rows, dim});
    // q and k in and out, v in; K and V out.
    const double moved =
        static_cast<double>(rows * heads * dim) * (5 * 4 + 2.0 * static_cast<double>(BytesOf(kv)));
    Measure(absl::StrCat("rope and store ", NameOf(kv)), absl::StrCat(rows, " rows"), {moved},
            [&](int) { backend_.RopeStore(in, angles, shape, uploaded, layer); });
    const double kv_bytes = 2.0 * sequences * context * heads *
                            (static_cast<double>(dim) * static_cast<double>(BytesOf(kv)) + 2);
    const double pairs = phase == Phase::kDecode ? static_cast<double>(sequences) * context
                                                 : 0.5 * context * context;
    Measure(
        absl::StrCat("attention ", phase == Phase::kDecode ? "decode " : "prefill ", NameOf(kv)),
        absl::StrCat(sequences, " x ", context), {kv_bytes, 4 * pairs * heads * dim},
        [&](int) { backend_.Attention(in, shape, uploaded, layer, attended); });
  }

  // What a step of single tokens begins and ends with.
  void BeginAndEnd(int32_t sequences) {
    const int64_t hidden = sizes_.hidden, vocab = sizes_.vocab, dim = sizes_.head_dim;
    const std::string shape = absl::StrCat(sequences, " rows");
    std::vector<int32_t> ids(sequences), none(sequences), starts(sequences + 1);
    std::iota(ids.begin(), ids.end(), 0);
    std::iota(starts.begin(), starts.end(), 0);
    const std::vector<RopeRegime> regimes(sequences, RopeRegime::kShort);
    const std::vector<Phase> phases(sequences, Phase::kDecode);
    std::vector<SamplingRow> rows(sequences);
    const std::vector<uint64_t> mapped((vocab + 63) / 64, ~uint64_t{0});
    std::vector<SampledToken> sampled(sequences);
    for (int32_t i = 0; i < sequences; ++i) rows[i].logit_row = i;

    const WeightType type = half_ == DType::kF16 ? WeightType::kF16 : WeightType::kBf16;
    const std::unique_ptr<Matrix> table =
        *backend_.NewMatrix({vocab, hidden, {type, 0}, RowPairing::kNone});
    const std::unique_ptr<Buffer> wide = Take(sequences * hidden * 4),
                                  narrow = Take(sequences * hidden * 2),
                                  picked = Take(sequences * hidden * 2),
                                  turns = Take(sequences * dim * 4), frequencies = Take(dim * 4),
                                  logits = Take(sequences * vocab * 4);
    const Tensor embedded(wide->data(), DType::kF32, {sequences, hidden});
    const Tensor angles(turns->data(), DType::kF32, {sequences, dim});
    const Tensor of_rope(frequencies->data(), DType::kF32, {2, dim / 2});
    const float factors[2] = {1, 1};
    const double row_bytes = static_cast<double>(sequences * hidden);
    const auto upload = [&]() -> const Batch& {
      const Batch batch = {ids, ids, regimes, none, starts, phases, none, 1, ids};
      return backend_.Upload(batch, {rows, mapped});
    };
    const Batch& batch = upload();
    Measure("embed", shape, {row_bytes * 6}, [&](int) { backend_.Embed(*table, batch, embedded); });
    Measure("rope angles", shape, {static_cast<double>(sequences * dim * 4)},
            [&](int) { backend_.RopeAngles(batch, of_rope, factors, angles); });
    Measure("select rows", shape, {row_bytes * 4}, [&](int) {
      backend_.SelectRows(Tensor(narrow->data(), half_, {sequences, hidden}), batch,
                          Tensor(picked->data(), half_, {sequences, hidden}));
    });
    const Tensor scores(logits->data(), DType::kF32, {sequences, vocab});
    const double logit_bytes = static_cast<double>(sequences * vocab * 4);
    Measure("sampling, greedy", shape, {logit_bytes},
            [&](int) { backend_.Sample(scores, sampled); });
    for (SamplingRow& row : rows) row.temperature = 0.8f, row.top_p = 0.95f, row.top_k = 40;
    upload();
    Measure("sampling, top-k and top-p", shape, {logit_bytes},
            [&](int) { backend_.Sample(scores, sampled); });
  }

  void Norms() {
    for (const int64_t rows : sizes_.rows) {
      const int64_t hidden = sizes_.hidden;
      const std::unique_ptr<Buffer> residual = Take(rows * hidden * 4);
      const std::unique_ptr<Buffer> delta = Take(rows * hidden * 4);
      const std::unique_ptr<Buffer> weight = Take(hidden * 4), out = Take(rows * hidden * 2);
      Measure("add and norm", absl::StrCat(rows, " rows"),
              {static_cast<double>(rows * hidden * 14)}, [&](int) {
                backend_.AddNorm(Tensor(residual->data(), DType::kF32, {rows, hidden}),
                                 Tensor(delta->data(), DType::kF32, {rows, hidden}),
                                 Tensor(weight->data(), DType::kF32, {hidden}), 1e-5f,
                                 Tensor(out->data(), half_, {rows, hidden}));
              });
    }
  }

  Backend& backend_;
  Sizes sizes_;
  DType half_;
  std::string only_;
};

absl::StatusOr<std::unique_ptr<Backend>> Make(const CudaOptions& options, bool emulated) {
  if (emulated) return cuda_emulated::MakeCudaBackend(options);
#if defined(TUPPENCE_WITH_CUDA)
  return cuda::MakeCudaBackend(options);
#else
  return absl::FailedPreconditionError("built without CUDA; --emulated runs tiny shapes");
#endif
}

int Main(int argc, char** argv) {
  CLI::App app("Times of the GPU kernels at Phi-3-mini's shapes");
  bool emulated = false, f16 = false;
  app.add_flag("--emulated", emulated, "Tiny shapes on the emulated GPU; times mean nothing");
  app.add_flag("--f16", f16, "f16 in place of bf16");
  std::string only;
  app.add_option("--only", only, "Kernels with this in their name; step: whole steps");
  double seconds = 0.05;
  app.add_option("--seconds", seconds, "Of each measurement, at least")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  CudaOptions options{.half = f16 ? DType::kF16 : DType::kBf16};
  const absl::StatusOr<std::unique_ptr<Backend>> backend = Make(options, emulated);
  if (!backend.ok()) {
    std::fprintf(stderr, "error: %s\n", backend.status().ToString().c_str());
    return 1;
  }
  std::printf("{\"arithmetic\": \"%s\"}\n", (*backend)->arithmetic_id().c_str());
  Sizes sizes = emulated ? Tiny() : Sizes();
  StepSizes steps = emulated ? TinyStepSizes() : StepSizes();
  if (!emulated) sizes.seconds = steps.seconds = seconds;
  Bench(**backend, sizes, options.half).Run(only);
  options.deterministic = false;
  const absl::StatusOr<std::unique_ptr<Backend>> cublas = Make(options, emulated);
  if (cublas.ok()) {
    Bench(**cublas, sizes, options.half).RunCublas(only);
  } else {
    std::fprintf(stderr, "%s\n", std::string(cublas.status().message()).c_str());
  }
  if (only.empty() || only == "step") MeasureSteps(**backend, options.half, steps);
  return 0;
}

}  // namespace
}  // namespace tuppence

int main(int argc, char** argv) { return tuppence::Main(argc, argv); }
