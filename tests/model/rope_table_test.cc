// The rope's frequencies, attention factors and regimes.
#include "model/rope_table.h"

#include <algorithm>
#include <bit>
#include <cstdlib>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tuppence {
namespace {

Config PlainConfig(double base, int32_t rotary_dim) {
  Config config;
  config.rope_base = base;
  config.rotary_dim = rotary_dim;
  config.positions_max = 4096;
  config.positions_original = 4096;
  return config;
}

// The factors that the expected bits below were made with.
Config LongConfig(int32_t rotary_dim) {
  Config config = PlainConfig(10000.0, rotary_dim);
  config.positions_max = 131072;
  LongRope scaling;
  for (int32_t i = 0; i < rotary_dim / 2; ++i) {
    scaling.short_factor.push_back(static_cast<float>(1.0 + 0.037 * i));
    scaling.long_factor.push_back(static_cast<float>(1.08 + 1.37 * i));
  }
  config.long_rope = scaling;
  return config;
}

int32_t UlpsApart(float a, uint32_t expected_bits) {
  return std::abs(static_cast<int32_t>(std::bit_cast<uint32_t>(a) - expected_bits));
}

// Every eighth frequency (and the last) as transformers 4.57.6 with torch 2.15 on x86 computes it.
// torch's vectorised power is within 1 unit in the last place; ours is rounded correctly. They
// differ in at most one of 48 or 64 frequencies, by at most 2 units (one of the power, which the
// division by a result just below a power of two doubles).
void ExpectFrequencies(const float* frequencies, int32_t half,
                       const std::vector<uint32_t>& expected) {
  size_t next = 0;
  for (int32_t i = 0; i < half; i = i + 8 < half || i == half - 1 ? i + 8 : half - 1) {
    EXPECT_LE(UlpsApart(frequencies[i], expected.at(next++)), 2) << "frequency " << i;
  }
  EXPECT_EQ(next, expected.size());
}

TEST(RopeTableTest, PlainFrequenciesAreThePublishedOnes) {
  const RopeTable table = MakeRopeTable(PlainConfig(10000.0, 96));
  ASSERT_EQ(table.half, 48);
  ExpectFrequencies(
      table.frequencies.data(), 48,
      {0x3f800000, 0x3e5c9d35, 0x3d3e1e95, 0x3c23d70a, 0x3b0d3169, 0x39f35a5c, 0x38fe1363});
}

TEST(RopeTableTest, Phi4FrequenciesAreThePublishedOnes) {
  const RopeTable table = MakeRopeTable(PlainConfig(250000.0, 128));
  ASSERT_EQ(table.half, 64);
  ExpectFrequencies(table.frequencies.data(), 64,
                    {0x3f800000, 0x3e588cb4, 0x3d372dbf, 0x3c1af347, 0x3b03126f, 0x39ddbf30,
                     0x38bb9332, 0x379eab4b, 0x36a2fca6});
}

TEST(RopeTableTest, LongRopeFrequenciesAreThePublishedOnesFor48Pairs) {
  const RopeTable table = MakeRopeTable(LongConfig(96));
  ASSERT_EQ(table.half, 48);
  ExpectFrequencies(
      table.frequencies.data(), 48,
      {0x3f800000, 0x3e2a3a18, 0x3ceed7f3, 0x3bad8f30, 0x3a814c31, 0x3944409d, 0x38398642});
  ExpectFrequencies(
      table.frequencies.data() + 48, 48,
      {0x3f6d097b, 0x3c929662, 0x3b0441cb, 0x399a624d, 0x38492a5c, 0x370b5b83, 0x35f85ef7});
}

TEST(RopeTableTest, LongRopeFrequenciesAreThePublishedOnesFor64Pairs) {
  const RopeTable table = MakeRopeTable(LongConfig(128));
  ASSERT_EQ(table.half, 64);
  ExpectFrequencies(table.frequencies.data(), 64,
                    {0x3f800000, 0x3e79dbe6, 0x3d80a4aa, 0x3c8935f0, 0x3b960961, 0x3aa721a9,
                     0x39bcdd53, 0x38d7e0cf, 0x38116830});
  ExpectFrequencies(table.frequencies.data() + 64, 64,
                    {0x3f6d097b, 0x3cd72935, 0x3b8e7835, 0x3a741a3f, 0x39696e90, 0x386d5b9a,
                     0x377b0171, 0x368862db, 0x35b15b5f});
}

TEST(RopeTableTest, AttentionFactorIsThePublishedOneAtEveryLength) {
  const RopeTable table = MakeRopeTable(LongConfig(96));
  EXPECT_EQ(table.attention_factors[0], 1.1902380714238083f);
  EXPECT_EQ(table.attention_factors[1], 1.1902380714238083f);
}

TEST(RopeTableTest, AttentionFactorIsOneWithoutLongRopeOrWithoutALongerContext) {
  EXPECT_EQ(MakeRopeTable(PlainConfig(10000.0, 96)).attention_factors[0], 1.0f);
  Config config = LongConfig(96);
  config.positions_max = 4096;
  EXPECT_EQ(MakeRopeTable(config).attention_factors[0], 1.0f);
  EXPECT_EQ(MakeRopeTable(config).attention_factors[1], 1.0f);
}

TEST(RopeTableTest, StatedFactorsReplaceTheFormula) {
  Config config = LongConfig(96);
  config.long_rope->attention_factor = 1.5;
  EXPECT_EQ(MakeRopeTable(config).attention_factors[1], 1.5f);
  config.long_rope->attention_factor.reset();
  config.long_rope->short_mscale = 1.25;
  config.long_rope->long_mscale = 1.75;
  EXPECT_EQ(MakeRopeTable(config).attention_factors[0], 1.25f);
  EXPECT_EQ(MakeRopeTable(config).attention_factors[1], 1.75f);
}

TEST(RopeTableTest, WithoutLongRopeBothRegimesAreTheSame) {
  const RopeTable table = MakeRopeTable(PlainConfig(10000.0, 96));
  ASSERT_EQ(table.frequencies.size(), 96u);
  EXPECT_TRUE(std::equal(table.frequencies.begin(), table.frequencies.begin() + 48,
                         table.frequencies.begin() + 48));
}

TEST(RopeTableTest, TheLongRegimeStartsOneTokenAboveTheOriginalLength) {
  const Config config = LongConfig(96);
  EXPECT_EQ(RegimeOfLength(config, 1), RopeRegime::kShort);
  EXPECT_EQ(RegimeOfLength(config, 4095), RopeRegime::kShort);
  EXPECT_EQ(RegimeOfLength(config, 4096), RopeRegime::kShort);
  EXPECT_EQ(RegimeOfLength(config, 4097), RopeRegime::kLong);
  EXPECT_EQ(RegimeOfLength(config, 131072), RopeRegime::kLong);
}

TEST(RopeTableTest, WithoutLongRopeEveryLengthIsShort) {
  const Config config = PlainConfig(10000.0, 96);
  EXPECT_EQ(RegimeOfLength(config, 4097), RopeRegime::kShort);
  EXPECT_EQ(RegimeOfLength(config, int64_t{1} << 40), RopeRegime::kShort);
}

TEST(RopeTableTest, AdmissionDecidesByTheLongestLengthAndExactByTheLengthNow) {
  const Config config = LongConfig(96);
  EXPECT_EQ(RegimeOfSequence(config, RopePolicy::kExact, 100, 5000), RopeRegime::kShort);
  EXPECT_EQ(RegimeOfSequence(config, RopePolicy::kExact, 4097, 5000), RopeRegime::kLong);
  EXPECT_EQ(RegimeOfSequence(config, RopePolicy::kAdmission, 100, 5000), RopeRegime::kLong);
  EXPECT_EQ(RegimeOfSequence(config, RopePolicy::kAdmission, 100, 4096), RopeRegime::kShort);
}

}  // namespace
}  // namespace tuppence
