// What the CUDA backend refuses, and how: without a kernel in sight.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cuda/cuda_backend.h"

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
  EXPECT_EQ((*turing)->arithmetic_id(), "emulated-sm75-f16-1");
  EXPECT_EQ((*ampere)->arithmetic_id(), "emulated-sm80-bf16-1");
}

TEST(CudaBackendTest, MemoryIsZeroedAsTheInterfaceSays) {
  const auto backend = cuda_emulated::MakeCudaBackend({});
  const auto buffer = (*backend)->Allocate(1000);
  ASSERT_TRUE(buffer.ok());
  std::vector<char> bytes(1000, 1);
  (*backend)->CopyToHost((*buffer)->data(), bytes.size(), bytes.data());
  EXPECT_EQ(bytes, std::vector<char>(1000, 0));
}

}  // namespace
}  // namespace tuppence
