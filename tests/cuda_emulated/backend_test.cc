// What the CUDA backend refuses, and how: without a kernel in sight.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cuda/cuda_backend.h"
#include "cuda/requirements.h"

namespace tuppence {
namespace {

using ::testing::HasSubstr;

TEST(CudaBackendTest, MemoryThatIsNotThereIsRefusedWithTheNumbers) {
  const auto backend = cuda_emulated::MakeCudaBackend({.half = DType::kBf16});
  ASSERT_TRUE(backend.ok()) << backend.status();
  const auto buffer = (*backend)->Allocate(size_t{9} << 30);
  EXPECT_EQ(buffer.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(buffer.status().ToString(),
              HasSubstr("need 9663676416 bytes of device memory; 8589934592 are free on emulated"));
  const auto matrix =
      (*backend)->NewMatrix({1 << 20, 1 << 14, {WeightType::kBf16, 0}, RowPairing::kNone});
  EXPECT_EQ(matrix.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE((*backend)->Synchronize().ok());  // being refused breaks nothing
}

TEST(CudaBackendTest, TuringRefusesBf16WithTheWayOut) {
  const auto backend = cuda_emulated::MakeCudaBackend({.half = DType::kBf16, .force_arch = 75});
  EXPECT_EQ(backend.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(backend.status().ToString(), HasSubstr("no bf16 arithmetic; take f16"));
}

TEST(CudaBackendTest, ArithmeticIdNamesArchitectureAndType) {
  const auto turing = cuda_emulated::MakeCudaBackend({.half = DType::kF16, .force_arch = 75});
  const auto ampere = cuda_emulated::MakeCudaBackend({.half = DType::kBf16, .force_arch = 80});
  EXPECT_EQ((*turing)->arithmetic_id(), "emulated-sm75-f16-3");
  EXPECT_EQ((*ampere)->arithmetic_id(), "emulated-sm80-bf16-3");
}

TEST(CudaBackendTest, MemoryIsZeroedAsTheInterfaceSays) {
  const auto backend = cuda_emulated::MakeCudaBackend({});
  const auto buffer = (*backend)->Allocate(1000);
  ASSERT_TRUE(buffer.ok());
  std::vector<char> bytes(1000, 1);
  (*backend)->CopyToHost((*buffer)->data(), bytes.size(), bytes.data());
  EXPECT_EQ(bytes, std::vector<char>(1000, 0));
}

cuda_emulated::FoundMachine SoundMachine() {
  return {.driver = 13010,
          .runtime = 13000,
          .built_with = 13000,
          .devices = 1,
          .devices_error = "",
          .device = "NVIDIA L4",
          .arch = 89,
          .code_arch = 89};
}

TEST(RequirementsTest, AMachineThatFitsIsTaken) {
  EXPECT_TRUE(CheckMachine(SoundMachine()).ok());
  cuda_emulated::FoundMachine through_ptx = SoundMachine();
  through_ptx.code_arch = 75;
  EXPECT_TRUE(CheckMachine(through_ptx).ok());
}

TEST(RequirementsTest, EachThingThatIsMissingIsRefusedWithItsNumbersAndTheWayOut) {
  const auto refusal = [](void (*spoil)(cuda_emulated::FoundMachine&)) {
    cuda_emulated::FoundMachine machine = SoundMachine();
    spoil(machine);
    const absl::Status status = CheckMachine(machine);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(status.message(), HasSubstr("or take --backend cpu"));
    return std::string(status.message());
  };
  EXPECT_THAT(refusal([](auto& m) { m.driver = 0; }), HasSubstr("no NVIDIA driver was found"));
  EXPECT_THAT(refusal([](auto& m) { m.driver = 12040; }),
              HasSubstr("the NVIDIA driver knows CUDA 12.4; this build needs CUDA 13.0"));
  EXPECT_THAT(refusal([](auto& m) { m.runtime = 12080; }),
              HasSubstr("built with CUDA 13.0 and CUDA 12.8 is linked"));
  EXPECT_THAT(refusal([](auto& m) { m.devices = 0, m.devices_error = "no device"; }),
              HasSubstr("no CUDA device was found (no device)"));
  EXPECT_THAT(refusal([](auto& m) { m.device = "Tesla V100", m.arch = 70; }),
              HasSubstr("Tesla V100 has compute capability 7.0; the kernels run on 7.5 to 9.0"));
  EXPECT_THAT(refusal([](auto& m) { m.arch = 120; }), HasSubstr("compute capability 12.0"));
  EXPECT_THAT(refusal([](auto& m) { m.code_arch = 0; }),
              HasSubstr("has no code; build with -DCMAKE_CUDA_ARCHITECTURES=89"));
}

}  // namespace
}  // namespace tuppence
