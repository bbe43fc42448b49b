// The quantiser's rule, its corners, and the conversions that feed it.
#include "model/quantize.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/convert.h"

namespace tuppence {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

struct Quantised {
  std::vector<int8_t> codes;
  std::vector<uint16_t> scales;
};

Quantised Quantise(const std::vector<float>& values, int64_t rows, const WeightFormat& format) {
  const int64_t cols = static_cast<int64_t>(values.size()) / rows;
  Quantised result;
  result.codes.resize(values.size());
  result.scales.resize(rows * GroupsOf(cols, format.group));
  QuantiseRows(values.data(), rows, cols, format, result.codes.data(), result.scales.data());
  return result;
}

std::vector<float> Dequantise(const Quantised& quantised, int64_t rows,
                              const WeightFormat& format) {
  const int64_t cols = static_cast<int64_t>(quantised.codes.size()) / rows;
  std::vector<float> values(quantised.codes.size());
  DequantiseRows(quantised.codes.data(), quantised.scales.data(), rows, cols, format,
                 values.data());
  return values;
}

float ScaleOf(const Quantised& quantised) { return ToFloat(F16{quantised.scales.at(0)}); }

constexpr WeightFormat kInt8 = {WeightType::kInt8, 128};
constexpr WeightFormat kInt4 = {WeightType::kInt4, 32};

// The rule as the header states it, in double where nothing else is said, with the library's own
// rounding: a second opinion on the loop that is written for speed.
void ExpectRule(const std::vector<float>& values, const WeightFormat& format) {
  const float code_max = format.type == WeightType::kInt8 ? 127.0f : 7.0f;
  float amax = 0;
  for (const float value : values) amax = std::max(amax, std::abs(value));
  const float scale = ToFloat(ToF16(amax / code_max));
  const Quantised quantised = Quantise(values, 1, format);
  ASSERT_EQ(ScaleOf(quantised), scale);
  for (size_t i = 0; i < values.size(); ++i) {
    const float code =
        scale == 0 ? 0 : std::clamp(std::nearbyint(values[i] / scale), -code_max, code_max);
    ASSERT_EQ(quantised.codes[i], static_cast<int>(code)) << values[i] << " with scale " << scale;
  }
}

TEST(QuantizeTest, FollowsTheRuleOnRandomGroupsOfManyMagnitudes) {
  std::mt19937 random(20240423);
  std::normal_distribution<float> normal;
  for (int exponent = -30; exponent <= 15; ++exponent) {
    for (const WeightFormat& format : {kInt8, kInt4}) {
      std::vector<float> values(format.group);
      for (float& value : values) value = std::ldexp(normal(random), exponent);
      ExpectRule(values, format);
    }
  }
}

TEST(QuantizeTest, CodesAreComputedWithTheRoundedScale) {
  // amax / 127 = 0.1 rounds to the f16 below, 0.0999756, so 0.45 / scale is above 4.5.
  const Quantised quantised = Quantise({12.7f, 0.45f}, 1, kInt8);
  EXPECT_LT(ScaleOf(quantised), 0.1f);
  EXPECT_THAT(quantised.codes, ElementsAre(127, 5));
}

TEST(QuantizeTest, TiesGoToEven) {
  const Quantised quantised = Quantise({127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f}, 1, kInt8);
  EXPECT_EQ(ScaleOf(quantised), 1.0f);
  EXPECT_THAT(quantised.codes, ElementsAre(127, 0, 2, 2, 0, -2));
}

TEST(QuantizeTest, CodesAreSymmetric) {
  EXPECT_THAT(Quantise({-127.0f, 127.0f, 126.6f}, 1, kInt8).codes, ElementsAre(-127, 127, 127));
  EXPECT_THAT(Quantise({-7.0f, 7.0f, 6.4f}, 1, kInt4).codes, ElementsAre(-7, 7, 6));
}

TEST(QuantizeTest, GroupsRunAlongARowAndTheLastMayBeShort) {
  std::vector<float> values(2 * 40, 0.0f);
  values[0] = 7.0f;    // row 0, group 0
  values[39] = 14.0f;  // row 0, group 1, of 8 values
  values[40] = 21.0f;  // row 1, group 0
  const Quantised quantised = Quantise(values, 2, kInt4);
  ASSERT_EQ(quantised.scales.size(), 4u);
  EXPECT_EQ(ToFloat(F16{quantised.scales[0]}), 1.0f);
  EXPECT_EQ(ToFloat(F16{quantised.scales[1]}), 2.0f);
  EXPECT_EQ(ToFloat(F16{quantised.scales[2]}), 3.0f);
  EXPECT_EQ(ToFloat(F16{quantised.scales[3]}), 0.0f);
  EXPECT_EQ(Dequantise(quantised, 2, kInt4), values);
}

TEST(QuantizeTest, AGroupOfZerosHasScaleZeroAndCodesZero) {
  const Quantised quantised = Quantise(std::vector<float>(64, -0.0f), 1, kInt8);
  EXPECT_EQ(quantised.scales[0], 0);
  EXPECT_THAT(quantised.codes, Each(0));
}

TEST(QuantizeTest, AScaleBelowF16sSmallestIsZeroAndSoAreTheCodes) {
  const Quantised quantised = Quantise({3.7e-6f, -1e-30f, 1e-40f}, 1, kInt8);
  EXPECT_EQ(quantised.scales[0], 0);
  EXPECT_THAT(quantised.codes, Each(0));
}

TEST(QuantizeTest, SubnormalScalesKeepTheStatedError) {
  std::mt19937 random(7);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  for (int exponent = -24; exponent <= -7; ++exponent) {
    std::vector<float> values(128);
    for (float& value : values) value = std::ldexp(uniform(random), exponent);
    const Quantised quantised = Quantise(values, 1, kInt8);
    const std::vector<float> back = Dequantise(quantised, 1, kInt8);
    const float bound = std::max(ScaleOf(quantised) / 2 * 1.0001f, 127 * 0x1p-25f);
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_LE(std::abs(values[i] - back[i]), bound) << "2^" << exponent;
    }
  }
}

TEST(QuantizeTest, AScaleAboveF16sLargestSaturatesAndNothingBecomesInfinite) {
  const float large = std::numeric_limits<float>::max();
  const Quantised quantised = Quantise({large, -large, 65504.0f, 0.0f}, 1, kInt8);
  EXPECT_EQ(quantised.scales[0], kScaleMaxBits);
  EXPECT_THAT(quantised.codes, ElementsAre(127, -127, 1, 0));
}

TEST(QuantizeTest, NormalScalesKeepHalfAStep) {
  std::mt19937 random(11);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  for (const WeightFormat& format : {kInt8, kInt4}) {
    std::vector<float> values(4 * 96);
    for (float& value : values) value = normal(random);
    const Quantised quantised = Quantise(values, 4, format);
    const std::vector<float> back = Dequantise(quantised, 4, format);
    for (size_t i = 0; i < values.size(); ++i) {
      const int64_t group = static_cast<int64_t>(i) / 96 * GroupsOf(96, format.group) +
                            static_cast<int64_t>(i) % 96 / format.group;
      const float scale = ToFloat(F16{quantised.scales[group]});
      // The largest value may be clipped by the scale's own rounding, 2^-11 of 127 steps.
      EXPECT_LE(std::abs(values[i] - back[i]), scale * 0.5001f);
    }
  }
}

TEST(QuantizeTest, AKvHeadIsOneInt8Group) {
  std::vector<float> values(96);
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i));
  std::vector<int8_t> codes(96);
  uint16_t scale = 0;
  QuantiseKvHead(values.data(), 96, codes.data(), &scale);
  const Quantised quantised = Quantise(values, 1, kInt8);
  EXPECT_EQ(codes, quantised.codes);
  EXPECT_EQ(scale, quantised.scales[0]);
}

// ------------------------------------------------------------------ convert.h

TEST(ConvertTest, EveryF16ConvertsExactly) {
  std::vector<uint16_t> bits;
  for (uint32_t b = 0; b < 0x10000; ++b) {
    if ((b & 0x7c00u) != 0x7c00u) bits.push_back(static_cast<uint16_t>(b));
  }
  std::vector<float> floats(bits.size());
  std::vector<Bf16> halves(bits.size());
  const int64_t count = static_cast<int64_t>(bits.size());
  ConvertToF32(DType::kF16, bits.data(), count, floats.data());
  ConvertToBf16(DType::kF16, bits.data(), count, halves.data());
  for (size_t i = 0; i < bits.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(floats[i]), std::bit_cast<uint32_t>(ToFloat(F16{bits[i]})));
    ASSERT_EQ(halves[i].bits, ToBf16(floats[i]).bits);
  }
}

TEST(ConvertTest, F32RoundsToTheNearestBf16) {
  const std::vector<float> values = {1.0f, 1.00390625f, 1.01171875f, -1e-40f, 3.0e38f, -0.0f};
  std::vector<Bf16> halves(values.size());
  ConvertToBf16(DType::kF32, values.data(), static_cast<int64_t>(values.size()), halves.data());
  for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(halves[i].bits, ToBf16(values[i]).bits);
}

template <typename Word>
void ExpectFound(DType type, Word bad, Word fine) {
  for (const int64_t at : {0, 1, 4095, 4096, 9999}) {
    std::vector<Word> values(10000, fine);
    EXPECT_EQ(FindNotFinite(type, values.data(), 10000), -1);
    values[at] = bad;
    values[9999] = bad;
    EXPECT_EQ(FindNotFinite(type, values.data(), 10000), at);
    EXPECT_EQ(FindNotFinite(type, values.data(), at), -1);
  }
}

TEST(ConvertTest, TheFirstNanOrInfinityIsFoundInEveryType) {
  ExpectFound<uint32_t>(DType::kF32, 0x7fc00000, 0x7f7fffff);
  ExpectFound<uint32_t>(DType::kF32, 0xff800000, 0x00000001);
  ExpectFound<uint16_t>(DType::kBf16, 0x7fc0, 0x7f7f);
  ExpectFound<uint16_t>(DType::kBf16, 0xff80, 0x8001);
  ExpectFound<uint16_t>(DType::kF16, 0x7e00, 0x7bff);
  ExpectFound<uint16_t>(DType::kF16, 0xfc00, 0x8001);
}

}  // namespace
}  // namespace tuppence
