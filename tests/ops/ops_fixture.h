// What the op tests share: a backend for each kernel path of this machine, and one call for each op
// on host vectors. The body of a test does not know which backend it runs on.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cpu/cpu_backend.h"
#include "cpu/kernel_paths.h"
#include "model/backend.h"
#include "tests/support/random_tensors.h"
#include "tests/support/reference_ops.h"
#include "tests/support/tolerance.h"

namespace tuppence::testing {

// Sanitizers slow everything down some ten times: they see fewer shapes.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

inline const CpuFeatures& Features() {
  static const CpuFeatures features = DetectCpuFeatures();
  return features;
}

inline std::unique_ptr<Backend> MakeBackend(KernelPath path, int threads = 2) {
  absl::StatusOr<std::unique_ptr<Backend>> backend = MakeCpuBackend({threads, path});
  EXPECT_TRUE(backend.ok()) << backend.status();
  return *std::move(backend);
}

inline Tensor View(std::vector<float>& values, int64_t rows) {
  return Tensor(values.data(), DType::kF32, {rows, static_cast<int64_t>(values.size()) / rows});
}

// Packed in ranges of uneven size, as a loader may hand them over.
inline std::unique_ptr<Matrix> Pack(Backend& backend, const HostMatrix& host) {
  absl::StatusOr<std::unique_ptr<Matrix>> matrix = backend.NewMatrix(host.spec);
  EXPECT_TRUE(matrix.ok()) << matrix.status();
  int64_t count = 3;
  for (int64_t row = 0; row < host.spec.rows; row += count, count = count * 2 + 5) {
    backend.PackRows(host.Rows(row, std::min(count, host.spec.rows - row)), **matrix);
  }
  return *std::move(matrix);
}

// Matmul, or GatedMatmul for a paired weight.
inline std::vector<float> RunMatmul(Backend& backend, std::vector<float> x, const Matrix& w) {
  const int64_t rows = static_cast<int64_t>(x.size()) / w.spec().cols;
  const bool gated = w.spec().pairing == RowPairing::kGateUp;
  std::vector<float> out(static_cast<size_t>(rows * w.spec().rows / (gated ? 2 : 1)), -1.0f);
  if (gated) {
    backend.GatedMatmul(View(x, rows), w, View(out, rows));
  } else {
    backend.Matmul(View(x, rows), w, View(out, rows));
  }
  EXPECT_TRUE(backend.Synchronize().ok());
  return out;
}

inline std::vector<float> RowsOf(const std::vector<float>& x, int64_t cols, int64_t first,
                                 int64_t count) {
  return {x.begin() + first * cols, x.begin() + (first + count) * cols};
}

inline ::testing::AssertionResult SameBits(const std::vector<float>& a,
                                           const std::vector<float>& b) {
  if (a.size() != b.size()) {
    return ::testing::AssertionFailure() << a.size() << " values against " << b.size();
  }
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], sizeof(float)) != 0) {
      return ::testing::AssertionFailure() << "value " << i << ": " << a[i] << " against " << b[i];
    }
  }
  return ::testing::AssertionSuccess();
}

// Runs a test once for each kernel path that this machine has.
class OpsTest : public ::testing::TestWithParam<KernelPath> {
 protected:
  OpsTest() : backend(MakeBackend(GetParam())) {
    RecordProperty("seed", std::to_string(TestSeed()));
  }

  std::unique_ptr<Backend> backend;
};

inline std::string PathName(const ::testing::TestParamInfo<KernelPath>& info) {
  return std::string(NameOf(info.param));
}

}  // namespace tuppence::testing

#define TUPPENCE_FOR_EACH_PATH(Suite)                                                   \
  INSTANTIATE_TEST_SUITE_P(                                                             \
      Path, Suite,                                                                      \
      ::testing::ValuesIn(::tuppence::AvailablePaths(::tuppence::testing::Features())), \
      ::tuppence::testing::PathName)
