// What the op tests share: a backend for each case of support/backend_case.h and comparisons of
// results. The body of a test does not know which backend it runs on.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "model/backend.h"
#include "tests/support/backend_case.h"
#include "tests/support/device_ops.h"
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

// Runs a test once for each backend.
class OpsTest : public ::testing::TestWithParam<BackendCase> {
 protected:
  OpsTest() : backend(MakeBackend(GetParam())) {
    RecordProperty("seed", std::to_string(TestSeed()));
  }

  // Few shapes: a sanitizer, or an emulated GPU.
  static bool slow() { return kSanitized || GetParam().emulated(); }
  // The largest relative error of one rounding to the type that matmuls take; 0 for f32.
  static double half_unit() { return HalfUnit(GetParam().half); }

  std::unique_ptr<Backend> backend;
};

// The plain path of the CPU, with which its other paths agree to the bit.
inline std::unique_ptr<Backend> MakePlain() { return MakeBackend({.path = KernelPath::kPlain}); }

}  // namespace tuppence::testing

#define TUPPENCE_FOR_EACH(Name, Suite, cases)                                                  \
  INSTANTIATE_TEST_SUITE_P(Name, Suite, ::testing::ValuesIn(cases),                            \
                           [](const ::testing::TestParamInfo<::tuppence::BackendCase>& info) { \
                             return info.param.name();                                         \
                           })
#define TUPPENCE_FOR_EACH_BACKEND(Suite) \
  TUPPENCE_FOR_EACH(Backend, Suite, ::tuppence::AllBackendCases())
// What is true of --deterministic=off as well.
#define TUPPENCE_FOR_EACH_BACKEND_AND_CUBLAS(Suite) \
  TUPPENCE_FOR_EACH_BACKEND(Suite);                 \
  TUPPENCE_FOR_EACH(Cublas, Suite, ::tuppence::CublasBackendCases())
