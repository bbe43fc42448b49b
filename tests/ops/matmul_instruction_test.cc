// The bf16 instructions against an emulation of their definitions (Intel SDM, volume 2: TDPBF16PS,
// VDPBF16PS), bit for bit: a result computed on one machine is then the result of every machine
// that keeps to the definition.
#include <bit>
#include <cmath>

#include "model/float16.h"
#include "tests/ops/ops_fixture.h"

namespace tuppence::testing {
namespace {

// Subnormals count as zero, as input and as result, whatever MXCSR says.
float Flush(float value) {
  return std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.0f, value) : value;
}
float FlushedFma(float a, float b, float c) {
  return Flush(std::fma(Flush(a), Flush(b), Flush(c)));
}

// Even k in order and odd k in order from zero over 32 k; their sum joins the total.
float EmulateAmx(const std::vector<float>& x, const std::vector<float>& w, size_t cols) {
  float total = 0;
  for (size_t block = 0; block < cols; block += 32) {
    float sums[2] = {0, 0};
    for (size_t k = block; k < std::min(cols, block + 32); ++k) {
      sums[k % 2] = FlushedFma(x[k], w[k], sums[k % 2]);
    }
    total = Flush(Flush(total) + Flush(sums[0] + sums[1]));
  }
  return total;
}

// One chain; each pair adds its odd product first.
float EmulateDot(const std::vector<float>& x, const std::vector<float>& w, size_t cols) {
  float total = 0;
  for (size_t k = 0; k < cols; k += 2) {
    total = FlushedFma(x[k + 1], w[k + 1], total);
    total = FlushedFma(x[k], w[k], total);
  }
  return total;
}

using Emulation = float (*)(const std::vector<float>&, const std::vector<float>&, size_t);

// Values over the whole range of exponents, subnormals among them, so that every rounding, flush
// and cancellation of the definition is met. With `steps` above 128 they are not bf16 numbers, and
// with 256 every second one lies half-way between two.
std::vector<float> WideValues(int64_t count, int exponent_span, uint32_t steps, uint64_t stream) {
  RandomTensors random(stream);
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) {
    const float sign = random.Bits() % 2 == 0 ? 1.0f : -1.0f;
    const float fraction =
        1.0f + static_cast<float>(random.Bits() % steps) / static_cast<float>(steps);
    const int exponent = static_cast<int>(random.Integer(-exponent_span, exponent_span));
    values.push_back(sign * std::ldexp(fraction, exponent));
  }
  return values;
}

void ExpectMatches(KernelPath path, Emulation emulate) {
  if (!DetectCpuFeatures().Has(path)) GTEST_SKIP() << "this machine has no " << NameOf(path);
  const std::unique_ptr<Backend> backend = MakeBackend({.path = path});
  const int64_t rows = 40, cols = 328, tokens = 21;
  for (const int span : {0, 4, 20, 63, 70}) {
    const HostMatrix w = MakeHostMatrix({rows, cols, {WeightType::kBf16, 0}, RowPairing::kNone},
                                        WideValues(rows * cols, span, 128, 100 + span));
    const std::vector<float> x =
        WideValues(tokens * cols, span, span == 0 ? 256 : 1 << 20, 200 + span);
    std::vector<float> rounded = x;
    for (float& value : rounded) value = ToFloat(ToBf16(value));
    const std::vector<float> out = RunMatmul(*backend, x, *Pack(*backend, w));
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t n = 0; n < rows; ++n) {
        const float expected =
            emulate(RowsOf(rounded, cols, t, 1), RowsOf(w.dequantized, cols, n, 1), cols);
        ASSERT_EQ(std::bit_cast<uint32_t>(out[t * rows + n]), std::bit_cast<uint32_t>(expected))
            << "exponents to " << span << ", token " << t << ", output " << n << ": "
            << out[t * rows + n] << " against " << expected;
      }
    }
  }
}

TEST(MatmulInstructionTest, AmxFollowsItsDefinition) {
  ExpectMatches(KernelPath::kAmx, &EmulateAmx);
}

TEST(MatmulInstructionTest, Bf16DotFollowsItsDefinition) {
  ExpectMatches(KernelPath::kAvx512Bf16, &EmulateDot);
}

}  // namespace
}  // namespace tuppence::testing
