// Embed, norm, rope, cache blocks, row selection and the shared exp.
#include <algorithm>
#include <bit>
#include <cmath>

#include "cpu/kernels.h"
#include "model/float16.h"
#include "tests/ops/ops_fixture.h"

namespace tuppence::testing {
namespace {

using ElementwiseTest = OpsTest;
using EmbedTest = OpsTest;

TEST_P(EmbedTest, GathersRowsOfEveryUnquantisedType) {
  for (const WeightType type : {WeightType::kF32, WeightType::kBf16, WeightType::kF16}) {
    const int64_t vocab = 104, hidden = 72;
    const HostMatrix table = MakeHostMatrix({vocab, hidden, {type, 0}, RowPairing::kNone},
                                            RandomTensors(1).Normal(vocab * hidden));
    const std::unique_ptr<Matrix> packed = Pack(*backend, table);
    const auto host = MakeHostBatch({{0, 5, Phase::kPrefill, {0}}}, 16);
    host->token_ids = {103, 0, 17, 17, 48};
    host->batch.token_ids = host->token_ids;
    const std::vector<float> out = RunEmbed(*backend, *packed, host->batch);
    for (int64_t t = 0; t < 5; ++t) {
      EXPECT_TRUE(SameBits(RowsOf(out, hidden, t, 1),
                           RowsOf(table.dequantized, hidden, host->token_ids[t], 1)));
    }
  }
}

// One rounding to the type that matmuls take, where that is none of f32.
double HalfRounding(const BackendCase& which, double value) {
  return which.cpu() ? 0 : 1.01 * HalfUnit(which.half) * std::abs(value) + 0x1p-25;
}

TEST_P(ElementwiseTest, RmsNormMatchesReference) {
  for (const int64_t hidden : {8, 72, 200, 3072}) {
    const std::vector<float> x = RandomTensors(2).Normal(11 * hidden, 2);
    const std::vector<float> weight = RandomTensors(3).Normal(hidden);
    const std::vector<float> out = RunNorm(*backend, x, weight, 1e-5f);
    const std::vector<double> expected = ReferenceRmsNorm(x, weight, static_cast<double>(1e-5f));
    for (size_t i = 0; i < out.size(); ++i) {
      ASSERT_NEAR(out[i], expected[i],
                  NormError(hidden, expected[i]) + HalfRounding(GetParam(), expected[i]))
          << hidden << " value " << i;
    }
  }
}

TEST_P(ElementwiseTest, RmsNormWorksInPlaceWhereTheTypesAllow) {
  const ActivationTypes types = backend->activation_types();
  if (types.stream != types.matmul_input) GTEST_SKIP() << "another type comes out";
  const int64_t hidden = 200;
  std::vector<float> x = RandomTensors(2).Normal(11 * hidden, 2);
  const std::vector<float> weight = RandomTensors(3).Normal(hidden);
  const std::vector<float> expected = RunNorm(*backend, x, weight, 1e-5f);
  const DeviceTensor in_place(*backend, types.stream, {11, hidden}, x);
  const DeviceTensor scale(*backend, DType::kF32, {hidden}, weight);
  backend->RmsNorm(in_place.view(), scale.view(), 1e-5f, in_place.view());
  ASSERT_TRUE(backend->Synchronize().ok());
  EXPECT_TRUE(SameBits(in_place.Read(), expected));
}

TEST_P(ElementwiseTest, AddNormAddsThenNormsAndRowsAreIndependent) {
  const int64_t hidden = 200, tokens = 65;
  const std::vector<float> start = RandomTensors(4).Normal(tokens * hidden);
  const std::vector<float> delta = RandomTensors(5).Normal(tokens * hidden);
  const std::vector<float> weight = RandomTensors(6).Normal(hidden);
  std::vector<float> residual = start;
  const std::vector<float> out = RunAddNorm(*backend, residual, delta, weight, 1e-5f);
  for (size_t i = 0; i < start.size(); ++i) ASSERT_EQ(residual[i], start[i] + delta[i]);
  EXPECT_TRUE(SameBits(RunNorm(*backend, residual, weight, 1e-5f), out));
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<float> one = RowsOf(start, hidden, t, 1);
    const std::vector<float> one_out =
        RunAddNorm(*backend, one, RowsOf(delta, hidden, t, 1), weight, 1e-5f);
    ASSERT_TRUE(SameBits(one_out, RowsOf(out, hidden, t, 1))) << t;
  }
}

TEST_P(ElementwiseTest, NormAgreesWithPlainToTheBit) {
  if (!GetParam().cpu()) GTEST_SKIP() << "a GPU has its own order of sums";
  const std::unique_ptr<Backend> plain = MakePlain();
  for (const int64_t hidden : {8, 72, 3080}) {
    const std::vector<float> x = RandomTensors(7).Normal(3 * hidden);
    const std::vector<float> weight = RandomTensors(8).Normal(hidden);
    EXPECT_TRUE(SameBits(RunNorm(*backend, x, weight, 1e-6f), RunNorm(*plain, x, weight, 1e-6f)))
        << hidden;
  }
}

TEST_P(ElementwiseTest, RopeAnglesUseEachTokensRegimeAndPosition) {
  const std::vector<float> frequencies = {1, 0.25f, 0.01f, 0.5f, 0.125f, 0.001f};
  const std::array<float, 2> factors = {1.0f, 1.19f};
  const auto host =
      MakeHostBatch({{131000, 6, Phase::kPrefill, std::vector<int32_t>(8200, 0)}}, 16);
  host->regimes = {RopeRegime::kShort, RopeRegime::kLong, RopeRegime::kLong,
                   RopeRegime::kShort, RopeRegime::kLong, RopeRegime::kShort};
  host->batch.regimes = host->regimes;
  const std::vector<float> out = RunRopeAngles(*backend, host->batch, frequencies, factors);
  for (int t = 0; t < 6; ++t) {
    const int regime = static_cast<int>(host->regimes[t]);
    for (int i = 0; i < 3; ++i) {
      const float angle = static_cast<float>(131000 + t) * frequencies[regime * 3 + i];
      const double factor = factors[regime];
      // One rounding of the cosine, one of the product.
      EXPECT_NEAR(out[t * 6 + i], std::cos(static_cast<double>(angle)) * factor, 2.4 * kF32Unit);
      EXPECT_NEAR(out[t * 6 + 3 + i], std::sin(static_cast<double>(angle)) * factor,
                  2.4 * kF32Unit);
    }
  }
}

TEST_P(ElementwiseTest, RopeTurnsPairsOfQAndKAndLeavesTheRest) {
  // Partial rotary: 24 of 40 channels turn; V and the rest stay.
  const AttentionShape shape = {2, 1, 40, 0.1f, 0};
  const int64_t stride = 4 * 40, rotary = 24, half = 12;
  const DType kv = GetParam().half;  // f32 on the CPU
  const auto cache = MakeHostKvLayer(kv, 2, 1, 16, 40);
  const auto host = MakeHostBatch({{0, 9, Phase::kPrefill, {1}}}, 16);
  std::vector<float> qkv = RandomTensors(9).Normal(9 * stride);
  const std::vector<float> angles = RandomTensors(10).Normal(9 * rotary);
  const std::vector<float> before = qkv;
  RunRopeStore(*backend, qkv, angles, shape, host->batch, *cache);
  const std::vector<float> seen = Seen(*backend, qkv);
  for (int64_t t = 0; t < 9; ++t) {
    for (int64_t head = 0; head < 4; ++head) {
      for (int64_t i = 0; i < 40; ++i) {
        const int64_t at = t * stride + head * 40 + i;
        if (head == 3 || i >= rotary) {
          ASSERT_EQ(qkv[at], before[at]);
          continue;
        }
        const double c = angles[t * rotary + i % half], s = angles[t * rotary + half + i % half];
        const double a = before[at], b = before[i < half ? at + half : at - half];
        const double expected = i < half ? a * c - b * s : a * c + b * s;
        ASSERT_NEAR(qkv[at], expected, RopeError(std::abs(a * c) + std::abs(b * s)));
      }
    }
    for (int64_t i = 0; i < 40; ++i) {
      const KvLayer& layer = cache->layer;
      ASSERT_EQ(PageValue(layer.keys, {}, 1, 0, t, i), seen[t * stride + 80 + i]);
      ASSERT_EQ(PageValue(layer.values, {}, 1, 0, t, i), seen[t * stride + 120 + i]);
    }
  }
}

TEST_P(ElementwiseTest, StoreRoundsAsTheQuantiserSays) {
  const AttentionShape shape = {1, 1, 8, 1, 0};
  const auto cache = MakeHostKvLayer(DType::kI8, 1, 1, 16, 8);
  const auto host = MakeHostBatch({{0, 3, Phase::kPrefill, {0}}}, 16);
  std::vector<float> qkv(3 * 24, 0.0f), angles(3 * 2, 0.0f);
  for (int t = 0; t < 3; ++t) angles[t * 2] = 1;
  for (int i = 0; i < 8; ++i) qkv[8 + i] = static_cast<float>(i) - 5.0f;  // K: -5 .. 2
  qkv[24 + 16] = std::numeric_limits<float>::infinity();                  // V of token 1
  RunRopeStore(*backend, qkv, angles, shape, host->batch, *cache);
  const float scale = ToFloat(ToF16(5.0f / 127.0f));
  for (int i = 0; i < 8; ++i) {
    const double expected = std::clamp(std::nearbyint((i - 5.0f) / scale), -127.0f, 127.0f) * scale;
    EXPECT_EQ(PageValue(cache->layer.keys, cache->layer.key_scales, 0, 0, 0, i), expected);
    EXPECT_EQ(PageValue(cache->layer.keys, cache->layer.key_scales, 0, 0, 2, i), 0);
    EXPECT_TRUE(std::isnan(PageValue(cache->layer.values, cache->layer.value_scales, 0, 0, 1, i)));
  }
}

TEST_P(ElementwiseTest, StoreRoundsBf16ToNearestEven) {
  if (GetParam().half == DType::kF16) GTEST_SKIP() << "its pages are f16";
  const AttentionShape shape = {1, 1, 8, 1, 0};
  const auto cache = MakeHostKvLayer(DType::kBf16, 1, 1, 16, 8);
  const auto host = MakeHostBatch({{0, 1, Phase::kPrefill, {0}}}, 16);
  // Half-way cases to either side, a carry into the exponent, infinity by rounding, subnormals.
  const std::vector<float> values = {
      1 + 0x1p-8f, 1 + 3 * 0x1p-8f, -1 - 0x1p-8f - 0x1p-20f, 2 - 0x1p-9f,
      3.4e38f,     0x1p-140f,       std::nanf(""),           -0.0f};
  std::vector<float> qkv(24, 0.0f), angles = {1.0f, 0.0f};
  std::copy(values.begin(), values.end(), qkv.begin() + 16);
  RunRopeStore(*backend, qkv, angles, shape, host->batch, *cache);
  for (int i = 0; i < 8; ++i) {
    const Bf16 stored{cache->layer.values.as<uint16_t>()[i]};
    if (std::isnan(values[i])) {
      EXPECT_TRUE(std::isnan(ToFloat(stored)));  // which of the NaNs is the machine's choice
    } else {
      EXPECT_EQ(stored.bits, ToBf16(values[i]).bits) << values[i];
    }
  }
}

TEST_P(ElementwiseTest, CopyAndZeroBlocksMoveWholeBlocks) {
  // Blocks of 4 tokens, and of 3, whose scales are no multiple of 16 bytes.
  for (const int64_t tokens : {4, 3}) {
    const auto cache = MakeHostKvLayer(DType::kI8, 5, 2, tokens, 8);
    RandomTensors random(11);
    for (std::byte& byte : cache->keys) byte = static_cast<std::byte>(random.Bits());
    for (uint16_t& scale : cache->value_scales) scale = static_cast<uint16_t>(random.Bits());
    const auto before = cache->keys;
    const auto scales_before = cache->value_scales;
    const std::vector<int32_t> from = {1, 4}, to = {3, 0};
    RunCopyBlocks(*backend, from, to, *cache);
    RunZeroBlocks(*backend, {4}, *cache);
    const size_t scales = 2 * static_cast<size_t>(tokens), bytes = scales * 8;
    for (size_t i = 0; i < bytes; ++i) {
      EXPECT_EQ(cache->keys[3 * bytes + i], before[1 * bytes + i]);
      EXPECT_EQ(cache->keys[0 * bytes + i], before[4 * bytes + i]);
      EXPECT_EQ(cache->keys[2 * bytes + i], before[2 * bytes + i]);
      EXPECT_EQ(cache->keys[4 * bytes + i], std::byte{0});
    }
    for (size_t i = 0; i < scales; ++i) {
      EXPECT_EQ(cache->value_scales[3 * scales + i], scales_before[1 * scales + i]);
      EXPECT_EQ(cache->value_scales[4 * scales + i], 0);
    }
  }
}

TEST_P(ElementwiseTest, SelectRowsTakesTheTokensWanted) {
  const std::vector<float> x = Seen(*backend, RandomTensors(12).Normal(6 * 24));
  const auto host = MakeHostBatch({{0, 2, Phase::kPrefill, {0}}, {0, 4, Phase::kPrefill, {1}}}, 16);
  const std::vector<float> out = RunSelectRows(*backend, x, host->batch);
  EXPECT_TRUE(SameBits(RowsOf(out, 24, 0, 1), RowsOf(x, 24, 1, 1)));
  EXPECT_TRUE(SameBits(RowsOf(out, 24, 1, 1), RowsOf(x, 24, 5, 1)));
}

// Every 257th float from -110 to 90 by bits, so that all exponents are met.
TEST_P(ElementwiseTest, ExpIsWithinTwoUnitsInTheLastPlaceAndTheSameOnEveryPath) {
  if (!GetParam().cpu()) GTEST_SKIP() << "the CPU's own exp";
  const Kernels kernels = KernelsOf(GetParam().path, DetectCpuFeatures());
  const Kernels plain = KernelsOf(KernelPath::kPlain, DetectCpuFeatures());
  std::vector<float> x;
  for (uint32_t bits = 0; bits < std::bit_cast<uint32_t>(110.0f); bits += 25711) {
    x.push_back(-std::bit_cast<float>(bits));
    if (std::bit_cast<float>(bits) < 88) x.push_back(std::bit_cast<float>(bits));
  }
  std::vector<float> y(x.size()), z(x.size());
  kernels.soft_weights(x.data(), static_cast<int64_t>(x.size()), 0, 1, y.data());
  plain.soft_weights(x.data(), static_cast<int64_t>(x.size()), 0, 1, z.data());
  EXPECT_TRUE(SameBits(y, z));
  for (size_t i = 0; i < x.size(); ++i) {
    const double exact = std::exp(static_cast<double>(x[i]));
    // A subnormal result has an absolute error of half its last place, 2^-150, instead.
    ASSERT_NEAR(y[i], exact, kExpRelative * exact + 0x1p-149) << x[i];
  }
}

TEST_P(ElementwiseTest, ExpKeepsItsCorners) {
  if (!GetParam().cpu()) GTEST_SKIP() << "the CPU's own exp";
  const Kernels kernels = KernelsOf(GetParam().path, DetectCpuFeatures());
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> x = {0.0f, -0.0f, -inf, inf, std::nanf(""), -1e30f, 89.0f};
  std::vector<float> y(x.size());
  kernels.soft_weights(x.data(), static_cast<int64_t>(x.size()), 0, 1, y.data());
  EXPECT_EQ(y[0], 1);
  EXPECT_EQ(y[1], 1);
  EXPECT_EQ(y[2], 0);
  EXPECT_EQ(y[3], inf);
  EXPECT_TRUE(std::isnan(y[4]));
  EXPECT_EQ(y[5], 0);
  EXPECT_EQ(y[6], inf);
}

TUPPENCE_FOR_EACH_BACKEND(ElementwiseTest);
TUPPENCE_FOR_EACH_BACKEND_AND_CUBLAS(EmbedTest);

}  // namespace
}  // namespace tuppence::testing
