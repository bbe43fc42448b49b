#include "tests/support/backend_case.h"

#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cpu/cpu_backend.h"
#include "cuda/cuda_backend.h"
#include "model/check.h"

namespace tuppence {
namespace {

using Device = BackendCase::Device;

// The thread sanitizer does not know fibres.
#if defined(__SANITIZE_THREAD__)
constexpr bool kFibres = false;
#else
constexpr bool kFibres = true;
#endif

bool Wanted(const char* name) {
  const char* const only = std::getenv("TUPPENCE_TEST_BACKENDS");
  return only == nullptr || std::string(only) == name;
}

void AddGpus(std::vector<BackendCase>& cases, bool cublas = false) {
  if (kFibres && Wanted("emulated")) {
    cases.push_back({Device::kEmulated, {}, 75, DType::kF16, cublas});
    cases.push_back({Device::kEmulated, {}, 80, DType::kBf16, cublas});
  }
#if defined(TUPPENCE_WITH_CUDA)
  const char* const text = std::getenv("TUPPENCE_TEST_ARCH");
  const int arch = text == nullptr ? 0 : std::atoi(text);
  const absl::StatusOr<CudaDevice> found = cuda::FindCudaDevice({.force_arch = arch});
  if (!found.ok() || !Wanted("cuda")) return;
  cases.push_back({Device::kCuda, {}, arch, DType::kF16, cublas});
  if (found->arch < 80) return;
  cases.push_back({Device::kCuda, {}, arch, DType::kBf16, cublas});
#endif
}

}  // namespace

std::string BackendCase::name() const {
  if (cpu()) return std::string(NameOf(path));
  const std::string of_arch = arch == 0 ? "" : absl::StrCat("_sm", arch);
  return absl::StrCat(emulated() ? "emulated" : "cuda", of_arch, "_", NameOf(half),
                      cublas ? "_cublas" : "");
}

std::vector<BackendCase> AllBackendCases() {
  std::vector<BackendCase> cases;
  if (Wanted("cpu")) {
    for (const KernelPath path : AvailablePaths(DetectCpuFeatures())) {
      cases.push_back({.path = path});
    }
  }
  AddGpus(cases);
  return cases;
}

std::vector<BackendCase> BestBackendCases() {
  std::vector<BackendCase> cases;
  if (Wanted("cpu")) cases.push_back({});
  AddGpus(cases);
  return cases;
}

std::vector<BackendCase> CublasBackendCases() {
  std::vector<BackendCase> cases;
  AddGpus(cases, /*cublas=*/true);
  return cases;
}

std::unique_ptr<Backend> MakeBackend(const BackendCase& which, int threads) {
  absl::StatusOr<std::unique_ptr<Backend>> backend = absl::InternalError("not linked");
  const CudaOptions options{
      .half = which.half, .force_arch = which.arch, .deterministic = !which.cublas};
  if (which.cpu()) backend = MakeCpuBackend({threads, which.path});
  if (which.emulated()) backend = cuda_emulated::MakeCudaBackend(options);
#if defined(TUPPENCE_WITH_CUDA)
  if (which.device == Device::kCuda) backend = cuda::MakeCudaBackend(options);
#endif
  if (!backend.ok()) std::cerr << backend.status() << std::endl;
  CHECK(backend.ok());
  return *std::move(backend);
}

}  // namespace tuppence
