// Matmul and GatedMatmul: against the reference, and bit for bit across row counts, threads and the
// paths that claim it.
#include <algorithm>
#include <cmath>

#include "tests/ops/ops_fixture.h"

namespace tuppence::testing {
namespace {

using MatmulTest = OpsTest;
using MatmulReferenceTest = OpsTest;

// What the backend multiplies with: on a GPU 16-bit weights are of the type that x is.
std::vector<WeightFormat> FormatsOf(const BackendCase& which) {
  if (which.cublas) {
    return {{which.half == DType::kF16 ? WeightType::kF16 : WeightType::kBf16, 0}};
  }
  std::vector<WeightFormat> formats = {{WeightType::kInt8, 32},
                                       {WeightType::kInt8, 128},
                                       {WeightType::kInt4, 32},
                                       {WeightType::kInt4, 64}};
  if (which.cpu() || which.half == DType::kBf16) formats.push_back({WeightType::kBf16, 0});
  if (which.cpu() || which.half == DType::kF16) formats.push_back({WeightType::kF16, 0});
  if (which.cpu()) formats.push_back({WeightType::kF32, 0});
  return formats;
}

std::string Describe(const MatrixSpec& spec) {
  return "type " + std::to_string(static_cast<int>(spec.format.type)) + " group " +
         std::to_string(spec.format.group) + " rows " + std::to_string(spec.rows) + " cols " +
         std::to_string(spec.cols) + (spec.pairing == RowPairing::kGateUp ? " gated" : "");
}

HostMatrix RandomMatrix(const MatrixSpec& spec, uint64_t stream) {
  RandomTensors random(stream);
  return MakeHostMatrix(spec, random.Normal(spec.rows * spec.cols, 0.05f));
}

bool RoundsInput(KernelPath path, WeightType type) {
  return type == WeightType::kBf16 && (path == KernelPath::kAmx || path == KernelPath::kAvx512Bf16);
}

// Half the smallest f16 number: what a result below the normal ones may be off by.
double HalfTiny() { return 0x1p-25; }

double ErrorOf(const BackendCase& which, const HostMatrix& w, double magnitude) {
  const int64_t cols = w.spec.cols;
  if (!which.cpu()) return TileMatmulError(cols, w.groups(), magnitude);
  if (w.spec.format.quantised()) return QuantizedMatmulError(w.groups(), magnitude);
  return RoundsInput(which.path, w.spec.format.type) ? Bf16MatmulError(cols, magnitude)
                                                     : MatmulError(cols, magnitude);
}

// K and N are multiples of 8 and of nothing more; one is larger than all blocks, one has several
// segments of K.
std::vector<std::pair<int64_t, int64_t>> ShapesOf(const BackendCase& which) {
  if (kSanitized) return {{8, 8}, {40, 72}};
  if (which.emulated()) return {{8, 8}, {40, 72}, {24, 1096}, {136, 200}};
  return {{8, 8}, {40, 72}, {24, 1096}, {328, 200}};
}

TEST_P(MatmulReferenceTest, EveryTypeAndAwkwardShape) {
  for (const auto& [rows, cols] : ShapesOf(GetParam())) {
    for (const WeightFormat& format : FormatsOf(GetParam())) {
      const HostMatrix w = RandomMatrix({rows, cols, format, RowPairing::kNone}, 1);
      const std::unique_ptr<Matrix> packed = Pack(*backend, w);
      for (const int64_t tokens : {1, 3, 16, 17, 37, 70}) {
        const std::vector<float> x = Seen(*backend, RandomTensors(2).Normal(tokens * cols));
        const std::vector<float> out = RunMatmul(*backend, x, *packed);
        const std::vector<Reference> expected = ReferenceMatmul(x, w, GetParam().cpu());
        for (size_t i = 0; i < out.size(); ++i) {
          ASSERT_NEAR(out[i], expected[i].value, ErrorOf(GetParam(), w, expected[i].magnitude))
              << Describe(w.spec) << " tokens " << tokens << " value " << i;
        }
      }
    }
  }
}

TEST_P(MatmulReferenceTest, GatedIsSiluOfGateTimesUp) {
  for (const auto& [half_rows, cols] : ShapesOf(GetParam())) {
    for (const WeightFormat& format : FormatsOf(GetParam())) {
      const HostMatrix w = RandomMatrix({2 * half_rows, cols, format, RowPairing::kGateUp}, 3);
      const std::unique_ptr<Matrix> packed = Pack(*backend, w);
      const int64_t tokens = 19;
      const std::vector<float> x = Seen(*backend, RandomTensors(4).Normal(tokens * cols, 3));
      const std::vector<float> out = RunMatmul(*backend, x, *packed);
      const std::vector<Reference> both = ReferenceMatmul(x, w, GetParam().cpu());
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t i = 0; i < half_rows; ++i) {
          const Reference& gate = both[t * 2 * half_rows + i];
          const Reference& up = both[t * 2 * half_rows + half_rows + i];
          const double expected = gate.value / (1 + std::exp(-gate.value)) * up.value;
          const double error = GatedError(gate.value, ErrorOf(GetParam(), w, gate.magnitude),
                                          up.value, ErrorOf(GetParam(), w, up.magnitude));
          const double rounding = half_unit() * (std::abs(expected) + error) + 1e-30;
          ASSERT_NEAR(out[t * half_rows + i], expected, error + rounding + HalfTiny())
              << Describe(w.spec) << " token " << t << " value " << i;
        }
      }
    }
  }
}

// Every row count of a fast backend; of a slow one those at the borders of its kernels.
TEST_P(MatmulTest, RowHasTheSameBitsAmongOneToSixtyFiveRows) {
  const bool short_rows = GetParam().plain() || slow();
  const int64_t cols = GetParam().emulated() ? 264 : short_rows ? 104 : 1064;
  const int64_t rows = GetParam().emulated() ? 24 : 72;
  std::vector<int64_t> counts = {1, 2, 8, 9, 16, 17, 32, 33, 64};
  if (!slow()) {
    counts.clear();
    for (int64_t count = 1; count < 65; ++count) counts.push_back(count);
  }
  for (const WeightFormat& format : FormatsOf(GetParam())) {
    for (const RowPairing pairing : {RowPairing::kNone, RowPairing::kGateUp}) {
      const HostMatrix w = RandomMatrix({rows * 2, cols, format, pairing}, 5);
      const std::unique_ptr<Matrix> packed = Pack(*backend, w);
      const std::vector<float> x = RandomTensors(6).Normal(65 * cols);
      const std::vector<float> all = RunMatmul(*backend, x, *packed);
      const int64_t outputs = static_cast<int64_t>(all.size()) / 65;
      for (const int64_t count : counts) {
        ASSERT_TRUE(SameBits(RunMatmul(*backend, RowsOf(x, cols, 65 - count, count), *packed),
                             RowsOf(all, outputs, 65 - count, count)))
            << Describe(w.spec) << " rows " << count;
      }
    }
  }
}

TEST_P(MatmulTest, ManyRowsHaveTheBitsOfOneRow) {
  const int64_t cols = 72, tokens = slow() ? 140 : 1100;
  for (const WeightFormat& format : FormatsOf(GetParam())) {
    const HostMatrix w = RandomMatrix({56, cols, format, RowPairing::kNone}, 7);
    const std::unique_ptr<Matrix> packed = Pack(*backend, w);
    const std::vector<float> x = RandomTensors(8).Normal(tokens * cols);
    const std::vector<float> all = RunMatmul(*backend, x, *packed);
    for (const int64_t row : {int64_t{0}, int64_t{63}, tokens / 2, tokens - 1}) {
      ASSERT_TRUE(
          SameBits(RunMatmul(*backend, RowsOf(x, cols, row, 1), *packed), RowsOf(all, 56, row, 1)))
          << Describe(w.spec) << " row " << row;
    }
  }
}

TEST_P(MatmulTest, ThreadsDoNotChangeBits) {
  if (!GetParam().cpu()) GTEST_SKIP() << "threads are the CPU's";
  for (const WeightFormat& format : FormatsOf(GetParam())) {
    const HostMatrix w = RandomMatrix({360, 264, format, RowPairing::kNone}, 9);
    const std::vector<float> x = RandomTensors(10).Normal(21 * 264);
    const std::vector<float> expected = RunMatmul(*backend, x, *Pack(*backend, w));
    for (const int threads : {1, 3, 5}) {
      const std::unique_ptr<Backend> other = MakeBackend(GetParam(), threads);
      ASSERT_TRUE(SameBits(RunMatmul(*other, x, *Pack(*other, w)), expected))
          << Describe(w.spec) << " threads " << threads;
    }
  }
}

TEST_P(MatmulTest, AgreesWithPlainToTheBitWhereItClaimsTo) {
  if (!GetParam().cpu()) GTEST_SKIP() << "a GPU has its own arithmetic";
  const std::unique_ptr<Backend> plain = MakePlain();
  for (const auto& [rows, cols] : ShapesOf(GetParam())) {
    for (const WeightFormat& format : FormatsOf(GetParam())) {
      if (RoundsInput(GetParam().path, format.type)) continue;
      for (const RowPairing pairing : {RowPairing::kNone, RowPairing::kGateUp}) {
        const HostMatrix w = RandomMatrix({2 * rows, cols, format, pairing}, 11);
        const std::vector<float> x = RandomTensors(12).Normal(13 * cols);
        ASSERT_TRUE(SameBits(RunMatmul(*backend, x, *Pack(*backend, w)),
                             RunMatmul(*plain, x, *Pack(*plain, w))))
            << Describe(w.spec);
      }
    }
  }
}

TEST_P(MatmulTest, NotANumberInOneRowStaysInThatRow) {
  for (const WeightFormat& format : FormatsOf(GetParam())) {
    const HostMatrix w = RandomMatrix({40, 136, format, RowPairing::kNone}, 13);
    const std::unique_ptr<Matrix> packed = Pack(*backend, w);
    std::vector<float> x = RandomTensors(14).Normal(18 * 136);
    x[5 * 136 + 77] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> out = RunMatmul(*backend, x, *packed);
    for (int64_t t = 0; t < 18; ++t) {
      for (int64_t n = 0; n < 40; ++n) ASSERT_EQ(std::isnan(out[t * 40 + n]), t == 5) << t;
    }
  }
}

TEST_P(MatmulTest, ZeroRowsGiveZeros) {
  for (const WeightFormat& format : FormatsOf(GetParam())) {
    const HostMatrix w = RandomMatrix({40, 136, format, RowPairing::kNone}, 15);
    const std::vector<float> out =
        RunMatmul(*backend, std::vector<float>(3 * 136, 0.0f), *Pack(*backend, w));
    EXPECT_TRUE(SameBits(out, std::vector<float>(3 * 40, 0.0f)));
  }
}

TEST_P(MatmulTest, MatrixSaysHowManyBytesItTakes) {
  const auto bytes_of = [&](WeightFormat format) {
    absl::StatusOr<std::unique_ptr<Matrix>> matrix =
        backend->NewMatrix({64, 256, format, RowPairing::kNone});
    return (*matrix)->bytes();
  };
  EXPECT_EQ(bytes_of({WeightType::kBf16, 0}), 64 * 256 * 2);
  EXPECT_EQ(bytes_of({WeightType::kF32, 0}), 64 * 256 * 4);
  const int64_t int8_bytes = 64 * (256 + 8 * 2);  // on the CPU in pages of 4 KiB
  EXPECT_EQ(bytes_of({WeightType::kInt8, 32}), GetParam().cpu() ? 20480 : int8_bytes);
}

TUPPENCE_FOR_EACH_BACKEND(MatmulTest);
TUPPENCE_FOR_EACH_BACKEND_AND_CUBLAS(MatmulReferenceTest);

}  // namespace
}  // namespace tuppence::testing
