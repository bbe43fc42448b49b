#include "bench/gpu_cublas.h"

#if defined(TUPPENCE_WITH_CUDA)
#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <dlfcn.h>

#include "absl/strings/str_cat.h"
#endif

namespace tuppence {

#if defined(TUPPENCE_WITH_CUDA)
namespace {

class LoadedCublas final : public GpuCublas {
 public:
  absl::Status Load() {
    const std::string name = absl::StrCat("libcublas.so.", CUBLAS_VER_MAJOR);
    void* const library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return absl::FailedPreconditionError(dlerror());
    const auto create =
        reinterpret_cast<decltype(&cublasCreate)>(dlsym(library, "cublasCreate_v2"));
    multiply_ = reinterpret_cast<Gemm>(dlsym(library, "cublasGemmEx"));
    if (create == nullptr || multiply_ == nullptr) {
      return absl::FailedPreconditionError(absl::StrCat(name, " lacks cublasGemmEx"));
    }
    Check(create(&handle_));
    return failure_;
  }

  // Row-major on what is column-major: out^T = w x^T.
  void Multiply(DType half, const void* x, const void* w, int64_t rows, int64_t outputs,
                int64_t cols, void* out) override {
    const float one = 1, zero = 0;
    const cudaDataType type = half == DType::kF16 ? CUDA_R_16F : CUDA_R_16BF;
    const int n = static_cast<int>(outputs), t = static_cast<int>(rows), k = static_cast<int>(cols);
    Check(multiply_(handle_, CUBLAS_OP_T, CUBLAS_OP_N, n, t, k, &one, w, type, k, x, type, k, &zero,
                    out, CUDA_R_32F, n, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
  }

  absl::Status Wait() override {
    const cudaError_t code = cudaDeviceSynchronize();
    if (code != cudaSuccess) failure_.Update(absl::UnavailableError(cudaGetErrorString(code)));
    return failure_;
  }

 private:
  using Gemm = cublasStatus_t (*)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int,
                                  int, const void*, const void*, cudaDataType, int, const void*,
                                  cudaDataType, int, const void*, void*, cudaDataType, int,
                                  cublasComputeType_t, cublasGemmAlgo_t);

  void Check(cublasStatus_t code) {
    if (code == CUBLAS_STATUS_SUCCESS) return;
    failure_.Update(
        absl::UnavailableError(absl::StrCat("cuBLAS: status ", static_cast<int>(code))));
  }

  cublasHandle_t handle_ = nullptr;
  Gemm multiply_ = nullptr;
  absl::Status failure_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GpuCublas>> GpuCublas::Open() {
  auto cublas = std::make_unique<LoadedCublas>();
  if (absl::Status status = cublas->Load(); !status.ok()) return status;
  return cublas;
}

#else

absl::StatusOr<std::unique_ptr<GpuCublas>> GpuCublas::Open() {
  return absl::FailedPreconditionError("built without CUDA");
}

#endif

}  // namespace tuppence
