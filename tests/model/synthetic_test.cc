// Synthetic weights: published shapes, the same numbers however they are read.
#include "model/synthetic.h"

#include <cmath>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/checkpoint.h"
#include "model/convert.h"
#include "model/float16.h"
#include "model/phi3_tensors.h"

namespace tuppence {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::vector<uint16_t> Read(WeightSource& source, size_t index, int64_t first, int64_t rows) {
  const std::vector<int64_t>& shape = source.tensors()[index].shape;
  std::vector<uint16_t> values(rows * (shape.size() == 1 ? 1 : shape[1]));
  EXPECT_TRUE(source.ReadRows(index, first, rows, values.data()).ok());
  return values;
}

TEST(SyntheticTest, ShapesHaveThePublishedNumberOfParameters) {
  const auto billions = [](const char* name) {
    return static_cast<double>(SyntheticConfig(name)->parameters()) / 1e9;
  };
  EXPECT_NEAR(billions("synthetic:phi-3-mini-4k"), 3.821, 0.001);
  EXPECT_NEAR(billions("synthetic:phi-3-mini-128k"), 3.821, 0.001);
  EXPECT_NEAR(billions("synthetic:phi-3.5-mini"), 3.821, 0.001);
  EXPECT_NEAR(billions("synthetic:phi-3-medium-4k"), 13.96, 0.01);
  EXPECT_NEAR(billions("synthetic:phi-3-medium-128k"), 13.96, 0.01);
  EXPECT_NEAR(billions("synthetic:phi-4"), 14.66, 0.01);
  EXPECT_NEAR(billions("synthetic:phi-4-mini"), 3.836, 0.001);
}

TEST(SyntheticTest, ConfigsAreConsistent) {
  for (const std::string& name : SyntheticNames()) {
    const absl::StatusOr<Config> config = SyntheticConfig("synthetic:" + name);
    ASSERT_TRUE(config.ok());
    EXPECT_EQ(config->head_dim * config->heads, config->hidden) << name;
    EXPECT_LE(config->positions_original, config->positions_max);
    EXPECT_FALSE(config->stop_ids.empty());
    for (const int32_t id : config->stop_ids) EXPECT_LT(id, config->vocab);
    if (config->long_rope) {
      EXPECT_EQ(config->long_rope->long_factor.size(), config->rotary_dim / 2u);
      EXPECT_EQ(config->long_rope->short_factor.size(), config->rotary_dim / 2u);
    }
  }
}

TEST(SyntheticTest, AnUnknownNameIsAnsweredWithTheNamesThereAre) {
  const auto model = OpenModel("synthetic:phi-5");
  ASSERT_FALSE(model.ok());
  EXPECT_THAT(std::string(model.status().message()),
              AllOf(HasSubstr("named phi-5"), HasSubstr("phi-3-mini-4k"), HasSubstr("phi-4-mini")));
}

TEST(SyntheticTest, RowsDoNotDependOnHowTheyAreCut) {
  const absl::StatusOr<ModelFiles> model = OpenModel("synthetic:phi-3-mini-4k");
  ASSERT_TRUE(model.ok());
  const std::vector<uint16_t> whole = Read(*model->source, 2, 0, 12);
  std::vector<uint16_t> parts;
  for (const auto& [first, rows] : {std::pair{0, 1}, {1, 4}, {5, 7}}) {
    const std::vector<uint16_t> part = Read(*model->source, 2, first, rows);
    parts.insert(parts.end(), part.begin(), part.end());
  }
  EXPECT_EQ(parts, whole);
}

TEST(SyntheticTest, TensorsAndSeedsDiffer) {
  const Config config = *SyntheticConfig("phi-3-mini-4k");
  const auto one = MakeSyntheticWeights(config, 1);
  const auto two = MakeSyntheticWeights(config, 2);
  EXPECT_EQ(Read(*one, 2, 0, 1), Read(*MakeSyntheticWeights(config, 1), 2, 0, 1));
  EXPECT_NE(Read(*one, 2, 0, 1), Read(*two, 2, 0, 1));
  EXPECT_NE(Read(*one, 2, 0, 1), Read(*one, 5, 0, 1));
}

TEST(SyntheticTest, MatricesLookLikeTrainedOnesAndNormsAreNearOne) {
  const auto source = MakeSyntheticWeights(*SyntheticConfig("phi-3-mini-4k"));
  double sum = 0, squares = 0;
  const std::vector<uint16_t> values = Read(*source, 2, 0, 100);
  for (const uint16_t bits : values) {
    const double value = ToFloat(Bf16{bits});
    sum += value;
    squares += value * value;
  }
  const double count = static_cast<double>(values.size());
  EXPECT_NEAR(sum / count, 0.0, 2e-4);
  EXPECT_NEAR(std::sqrt(squares / count), 0.018, 2e-4);
  for (const uint16_t bits : Read(*source, 1, 0, 3072)) {
    EXPECT_NEAR(ToFloat(Bf16{bits}), 1.0f, 0.15f);
  }
}

TEST(SyntheticTest, AllTypesHoldTheSameValues) {
  Config config = *SyntheticConfig("phi-3-mini-4k");
  std::vector<std::vector<float>> read;
  for (const DType type : {DType::kF32, DType::kBf16, DType::kF16}) {
    config.dtype = type;
    const auto source = MakeSyntheticWeights(config);
    std::vector<float> raw(3072), values(3072);
    ASSERT_TRUE(source->ReadRows(3, 17, 1, raw.data()).ok());
    ConvertToF32(type, raw.data(), 3072, values.data());
    read.push_back(values);
  }
  EXPECT_EQ(read[0], read[1]);
  EXPECT_EQ(read[0], read[2]);
}

}  // namespace
}  // namespace tuppence
