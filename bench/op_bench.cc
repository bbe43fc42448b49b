// Measures the CPU backend's ops on Phi-3-mini's shapes, per weight type, rows and kernel path, and
// says each as a share of what the machine can do: of the read bandwidth measured in the same run
// (decode), or as TFLOPS or TOPS (prefill). The table in cpu/kernel_paths.cc rests on its figures.
//
//   op_bench [--benchmark_filter=REGEX]      figures go to bench/results
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench/int8_peak.h"
#include "cpu/cpu_backend.h"
#include "cpu/cpu_resources.h"
#include "cpu/huge_buffer.h"
#include "cpu/kernel_paths.h"
#include "cpu/thread_pool.h"

namespace tuppence {
namespace {

const CpuFeatures& Features() {
  static const CpuFeatures features = DetectCpuFeatures();
  return features;
}

int Threads() {
  static const int threads = FindCpuResources().threads;
  return threads;
}

// Bytes a second that all threads together read from memory far larger than the caches' share. The
// best window of 64 MiB: on a shared machine the others only lower it.
double ReadBandwidth() {
  static const double best = [] {
    const size_t bytes = size_t{2} << 30, window = size_t{64} << 20, piece = size_t{2} << 20;
    HugeBuffer memory = HugeBuffer::Map(bytes).value();
    std::memset(memory.data(), 1, bytes);
    ThreadPool pool(Threads());
    double most = 0;
    for (size_t at = 0; at < 16 * bytes; at += window) {
      const auto* const words = static_cast<const uint64_t*>(memory.data()) + at % bytes / 8;
      const auto start = std::chrono::steady_clock::now();
      pool.ParallelFor(static_cast<int64_t>(window / piece), [&](int64_t chunk, int) {
        const uint64_t* const mine = words + static_cast<size_t>(chunk) * piece / 8;
        uint64_t sums[8] = {};
        for (size_t i = 0; i < piece / 8; i += 8) {
          __builtin_prefetch(mine + i + 512);
          for (size_t j = 0; j < 8; ++j) sums[j] += mine[i + j];
        }
        for (uint64_t& sum : sums) benchmark::DoNotOptimize(sum);
      });
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      most = std::max(most, static_cast<double>(window) / seconds.count());
    }
    return most;
  }();
  return best;
}

void ReadMemory(benchmark::State& state) {
  for (auto _ : state) state.SetIterationTime(1.0);
  state.counters["GB/s"] = ReadBandwidth() / 1e9;
}

void PeakInInt8(benchmark::State& state) {
  Int8Peak peak;
  for (auto _ : state) {
    peak = MeasureInt8Peak(Threads());
    state.SetIterationTime(1.0);
  }
  state.counters["TOPS"] = peak.operations_per_second / 1e12;
  state.SetLabel(peak.instruction);
}

struct WeightShape {
  const char* name;
  int64_t rows, cols;
  bool gated;
};
constexpr WeightShape kShapes[] = {
    {"qkv", 9216, 3072, false},  {"o", 3072, 3072, false},        {"gate_up", 16384, 3072, true},
    {"down", 3072, 8192, false}, {"lm_head", 32064, 3072, false},
};

struct NamedFormat {
  const char* name;
  WeightFormat format;
};
constexpr NamedFormat kFormats[] = {
    {"bf16", {WeightType::kBf16, 0}},
    {"f32", {WeightType::kF32, 0}},
    {"int8", {WeightType::kInt8, 128}},
    {"int4", {WeightType::kInt4, 32}},
};

// Copies of one weight, so that each call finds it in memory and not in the last-level cache's
// corner that it left warm: 1 GiB in all.
std::vector<std::unique_ptr<Matrix>> MakeCopies(Backend& backend, const WeightShape& shape,
                                                const WeightFormat& format) {
  MatrixSpec spec = {shape.rows, shape.cols, format,
                     shape.gated ? RowPairing::kGateUp : RowPairing::kNone};
  const int64_t groups = format.quantised() ? (shape.cols + format.group - 1) / format.group : 0;
  const int64_t chunk = 512;
  std::vector<uint8_t> values(static_cast<size_t>(chunk * shape.cols * 4), 1);
  // 0x3c3c: about 0.0115 as bf16 and 0x3c3c3c3c as f32; as int8 the code 1.
  if (!format.quantised()) std::fill(values.begin(), values.end(), uint8_t{0x3c});
  const std::vector<uint16_t> scales(static_cast<size_t>(chunk * std::max<int64_t>(groups, 1)),
                                     0x2000);
  std::vector<std::unique_ptr<Matrix>> copies;
  int64_t bytes = 0;
  while (bytes < (int64_t{1} << 30)) {
    copies.push_back(backend.NewMatrix(spec).value());
    bytes += copies.back()->bytes();
    for (int64_t row = 0; row < shape.rows; row += chunk) {
      backend.PackRows({format, row, std::min(chunk, shape.rows - row), shape.cols, values.data(),
                        scales.data()},
                       *copies.back());
    }
  }
  return copies;
}

void RunMatmul(benchmark::State& state, KernelPath path, WeightShape shape, WeightFormat format,
               int64_t tokens) {
  const std::unique_ptr<Backend> backend = MakeCpuBackend({0, path}).value();
  const auto copies = MakeCopies(*backend, shape, format);
  const int64_t outputs = shape.gated ? shape.rows / 2 : shape.rows;
  std::vector<float> x(static_cast<size_t>(tokens * shape.cols), 0.5f);
  std::vector<float> out(static_cast<size_t>(tokens * outputs));
  const Tensor x_view(x.data(), DType::kF32, {tokens, shape.cols});
  const Tensor out_view(out.data(), DType::kF32, {tokens, outputs});
  size_t next = 0;
  double best = 1e9;
  for (auto _ : state) {
    const auto start = std::chrono::steady_clock::now();
    const Matrix& w = *copies[next++ % copies.size()];
    shape.gated ? backend->GatedMatmul(x_view, w, out_view) : backend->Matmul(x_view, w, out_view);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::min(best, seconds.count());
  }
  const double bytes = static_cast<double>(copies[0]->bytes());
  const double operations = 2.0 * static_cast<double>(tokens * shape.rows * shape.cols);
  using benchmark::Counter;
  state.counters["GB/s"] = Counter(bytes / 1e9, Counter::kIsIterationInvariantRate);
  state.counters["of_read"] = Counter(bytes / ReadBandwidth(), Counter::kIsIterationInvariantRate);
  state.counters["TFLOPS"] = Counter(operations / 1e12, Counter::kIsIterationInvariantRate);
  state.counters["best_of_read"] = bytes / best / ReadBandwidth();
  state.counters["best_TFLOPS"] = operations / best / 1e12;
}

// One sequence in each of `sequences` entries, `context` keys each; `tokens` queries each.
void RunAttention(benchmark::State& state, KernelPath path, DType type, int64_t sequences,
                  int64_t context, int64_t tokens) {
  const AttentionShape shape = {32, 32, 96, 0.102f, 0};
  const std::unique_ptr<Backend> backend = MakeCpuBackend({0, path}).value();
  const int64_t block_tokens = 16, blocks = (context + 15) / 16;
  const int64_t rows = sequences * blocks * 32 * block_tokens;
  const std::unique_ptr<Buffer> keys =
      backend->Allocate(static_cast<size_t>(rows * 96) * BytesOf(type)).value();
  const std::unique_ptr<Buffer> values = backend->Allocate(keys->bytes()).value();
  const std::unique_ptr<Buffer> scales = backend->Allocate(static_cast<size_t>(rows * 2)).value();
  KvLayer cache;
  cache.keys = Tensor(keys->data(), type, {sequences * blocks, 32, block_tokens, 96});
  cache.values = Tensor(values->data(), type, {sequences * blocks, 32, block_tokens, 96});
  cache.key_scales = Tensor(scales->data(), DType::kF16, {sequences * blocks, 32, block_tokens});
  cache.value_scales = cache.key_scales;
  std::vector<int32_t> positions, starts = {0}, tables, ids;
  std::vector<Phase> phases(static_cast<size_t>(sequences), Phase::kDecode);
  for (int64_t s = 0; s < sequences; ++s) {
    for (int64_t t = 0; t < tokens; ++t) {
      positions.push_back(static_cast<int32_t>(context - tokens + t));
      ids.push_back(0);
    }
    starts.push_back(static_cast<int32_t>(positions.size()));
    // Blocks lie spread over the pool, as after some hours of service.
    for (int64_t b = 0; b < blocks; ++b) {
      tables.push_back(static_cast<int32_t>((b * sequences + s) * 37 % (sequences * blocks)));
    }
  }
  Batch batch;
  batch.token_ids = ids;
  batch.positions = positions;
  batch.entry_starts = starts;
  batch.entry_phases = phases;
  batch.block_tables = tables;
  batch.block_table_stride = static_cast<int32_t>(blocks);
  const int64_t count = sequences * tokens;
  std::vector<float> qkv(static_cast<size_t>(count * 9216), 0.1f);
  std::vector<float> out(static_cast<size_t>(count * 3072));
  for (auto _ : state) {
    backend->Attention(Tensor(qkv.data(), DType::kF32, {count, 9216}), shape, batch, cache,
                       Tensor(out.data(), DType::kF32, {count, 3072}));
  }
  const double bytes =
      static_cast<double>(sequences * context * 3072 * 2) * static_cast<double>(BytesOf(type));
  const double pairs =
      static_cast<double>(sequences * tokens) * static_cast<double>(context - (tokens - 1) / 2);
  using benchmark::Counter;
  state.counters["GB/s"] = Counter(bytes / 1e9, Counter::kIsIterationInvariantRate);
  state.counters["of_read"] = Counter(bytes / ReadBandwidth(), Counter::kIsIterationInvariantRate);
  state.counters["TFLOPS"] = Counter(4 * 3072 * pairs / 1e12, Counter::kIsIterationInvariantRate);
}

void RunSampling(benchmark::State& state, KernelPath path, float spread, SamplingRow row) {
  const std::unique_ptr<Backend> backend = MakeCpuBackend({1, path}).value();
  const int64_t vocab = 32064;
  std::vector<float> logits(static_cast<size_t>(vocab));
  // A normal distribution by its quantiles, shuffled: like a model's logits where spread is 2 to 3.
  for (int64_t i = 0; i < vocab; ++i) {
    const double u = (static_cast<double>(i * 12347 % vocab) + 0.5) / static_cast<double>(vocab);
    logits[static_cast<size_t>(i)] =
        spread * static_cast<float>(4.91 * (std::pow(u, 0.14) - std::pow(1 - u, 0.14)));
  }
  const std::vector<uint64_t> mapped(static_cast<size_t>(vocab + 63) / 64, ~uint64_t{0});
  std::vector<SampledToken> out(1);
  for (auto _ : state) {
    backend->Upload({}, {{&row, 1}, mapped});
    backend->Sample(Tensor(logits.data(), DType::kF32, {1, vocab}), out);
    ++row.output_index;
  }
}

void RunPack(benchmark::State& state, WeightFormat format) {
  const std::unique_ptr<Backend> backend = MakeCpuBackend({}).value();
  const int64_t rows = 4096, cols = 3072;
  const std::unique_ptr<Matrix> matrix =
      backend->NewMatrix({rows, cols, format, RowPairing::kNone}).value();
  const std::vector<uint8_t> values(static_cast<size_t>(rows * cols * 4), 1);
  const std::vector<uint16_t> scales(static_cast<size_t>(rows * cols / 32), 1);
  for (auto _ : state) {
    backend->PackRows({format, 0, rows, cols, values.data(), scales.data()}, *matrix);
  }
  state.counters["values/s"] = benchmark::Counter(static_cast<double>(rows * cols),
                                                  benchmark::Counter::kIsIterationInvariantRate);
}

void RegisterMatmuls(KernelPath path) {
  for (const WeightShape& shape : kShapes) {
    for (const NamedFormat& named : kFormats) {
      for (const int64_t tokens : {1, 4, 16, 64, 512}) {
        const std::string name = std::string("matmul/") + shape.name + "/" + named.name + "/" +
                                 std::to_string(tokens) + "/" + std::string(NameOf(path));
        const WeightFormat format = named.format;
        benchmark::RegisterBenchmark(
            name.c_str(),
            [=](benchmark::State& state) { RunMatmul(state, path, shape, format, tokens); })
            ->UseRealTime()
            ->Unit(benchmark::kMicrosecond);
      }
    }
  }
}

void RegisterAttention(KernelPath path) {
  struct Case {
    const char* name;
    int64_t sequences, context, tokens;
  };
  for (const Case& c :
       {Case{"decode_1x1024", 1, 1024, 1}, Case{"decode_8x1024", 8, 1024, 1},
        Case{"prefill_512", 1, 512, 512}, Case{"prefill_512_of_2048", 1, 2048, 512}}) {
    for (const DType type : {DType::kBf16, DType::kI8, DType::kF32}) {
      const std::string name =
          std::string("attention/") + c.name + "/" + NameOf(type) + "/" + std::string(NameOf(path));
      benchmark::RegisterBenchmark(name.c_str(),
                                   [=](benchmark::State& state) {
                                     RunAttention(state, path, type, c.sequences, c.context,
                                                  c.tokens);
                                   })
          ->UseRealTime()
          ->Unit(benchmark::kMicrosecond);
    }
  }
}

void RegisterSampling(KernelPath path) {
  SamplingRow greedy, plain, filtered, logprobs;
  plain.temperature = filtered.temperature = 0.8f;
  filtered.top_k = 50;
  filtered.top_p = 0.9f;
  logprobs.logprob = true;
  logprobs.top_logprobs = 20;
  const std::pair<const char*, SamplingRow> rows[] = {{"greedy", greedy},
                                                      {"temperature", plain},
                                                      {"top_k_top_p", filtered},
                                                      {"greedy_logprobs", logprobs}};
  for (const auto& [kind, row] : rows) {
    for (const float spread : {0.0f, 2.5f}) {
      const std::string name = std::string("sample/") + kind +
                               (spread == 0 ? "/flat/" : "/peaked/") + std::string(NameOf(path));
      const SamplingRow copy = row;
      benchmark::RegisterBenchmark(
          name.c_str(), [=](benchmark::State& state) { RunSampling(state, path, spread, copy); })
          ->UseRealTime()
          ->Unit(benchmark::kMicrosecond);
    }
  }
}

}  // namespace
}  // namespace tuppence

int main(int argc, char** argv) {
  using tuppence::KernelPath;
  benchmark::RegisterBenchmark("read_memory", tuppence::ReadMemory)->UseManualTime()->Iterations(1);
  benchmark::RegisterBenchmark("int8_peak", tuppence::PeakInInt8)->UseManualTime()->Iterations(1);
  for (const auto& named : tuppence::kFormats) {
    const tuppence::WeightFormat format = named.format;
    benchmark::RegisterBenchmark((std::string("pack/") + named.name).c_str(),
                                 [=](benchmark::State& state) { tuppence::RunPack(state, format); })
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  }
  for (const KernelPath path : tuppence::AvailablePaths(tuppence::Features())) {
    tuppence::RegisterMatmuls(path);
    tuppence::RegisterAttention(path);
    tuppence::RegisterSampling(path);
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  std::printf("%s\n", tuppence::FindCpuResources().Describe().c_str());
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
