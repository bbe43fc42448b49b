// What a model runs on: options against what this program and this machine have.
#include "service/device_choice.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/synthetic.h"
#include "service/gpu_backends.h"

namespace tuppence {
namespace {

using ::testing::HasSubstr;

ModelOptions On(const std::string& backend, const std::string& weights, const std::string& kv) {
  ModelOptions options;
  options.backend = backend;
  options.weights = weights;
  options.kv = kv;
  return options;
}

std::string ErrorOf(const ModelOptions& options) {
  return ChooseDevice(options, *SyntheticConfig("phi-3-mini-4k")).status().ToString();
}

TEST(DeviceChoiceTest, CpuIsTakenAsAskedAndSaysItsKernels) {
  const auto choice = ChooseDevice(On("cpu", "int8", "bf16"), *SyntheticConfig("phi-3-mini-4k"));
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_EQ(choice->backend->name(), "cpu");
  EXPECT_TRUE(choice->weights.type == WeightType::kInt8);
  EXPECT_TRUE(choice->kv == DType::kBf16);
  EXPECT_GT(choice->memory_available_bytes, 0);
  EXPECT_FALSE(choice->kernels.empty());
}

TEST(DeviceChoiceTest, AutoSaysWhyItTookWhatItTook) {
  const auto choice = ChooseDevice(On("auto", "bf16", "bf16"), *SyntheticConfig("phi-3-mini-4k"));
  ASSERT_TRUE(choice.ok()) << choice.status();
  if (choice->backend->name() != "cpu" || GpuBackends().empty()) return;
  EXPECT_THAT(choice->notes[0], HasSubstr("backend: cpu, as "));
}

TEST(DeviceChoiceTest, UnknownBackendIsAnsweredWithTheKnownOnes) {
  EXPECT_THAT(ErrorOf(On("tpu", "bf16", "bf16")),
              HasSubstr("--backend is \"tpu\"; this program has auto, cpu"));
}

TEST(DeviceChoiceTest, CpuRefusesF16KeysAndValuesWithTheWayOut) {
  EXPECT_THAT(ErrorOf(On("cpu", "f16", "f16")), HasSubstr("take bf16, f32 or int8"));
}

TEST(DeviceChoiceTest, DeterministicOffIsForAGpu) {
  ModelOptions options = On("cpu", "bf16", "bf16");
  options.deterministic = "off";
  EXPECT_THAT(ErrorOf(options), HasSubstr("for 16-bit weights on a GPU"));
}

}  // namespace
}  // namespace tuppence
