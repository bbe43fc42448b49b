#include "cuda/cublas.h"

#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace tuppence::cuda {
namespace {

class LoadedCublas final : public Cublas {
 public:
  explicit LoadedCublas(Gpu& gpu) : gpu_(gpu) {}
  ~LoadedCublas() override {
    if (handle_ != nullptr) (void)destroy_(handle_);
    if (library_ != nullptr) dlclose(library_);
  }

  absl::Status Load() {
    const std::string name = absl::StrCat("libcublas.so.", CUBLAS_VER_MAJOR);
    library_ = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library_ == nullptr) return absl::FailedPreconditionError(dlerror());
    decltype(&cublasCreate) create = nullptr;
    decltype(&cublasSetStream) set_stream = nullptr;
    if (!Find("cublasCreate_v2", &create) || !Find("cublasDestroy_v2", &destroy_) ||
        !Find("cublasSetStream_v2", &set_stream) || !Find("cublasGemmEx", &multiply_)) {
      return absl::FailedPreconditionError(absl::StrCat(name, " lacks cublasGemmEx"));
    }
    cublasStatus_t code = create(&handle_);
    if (code == CUBLAS_STATUS_SUCCESS) {
      code = set_stream(handle_, static_cast<cudaStream_t>(gpu_.stream()));
    }
    if (code == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat(name, " does not start: status ", static_cast<int>(code)));
  }

  // Row by row on what is column by column: out^T = w x^T.
  void Multiply(Tensor x, const void* w, Tensor out) override {
    const float one = 1, zero = 0;
    const cudaDataType type = x.type == DType::kF16 ? CUDA_R_16F : CUDA_R_16BF;
    const int rows = static_cast<int>(x.shape[0]), cols = static_cast<int>(x.shape[1]);
    const int outputs = static_cast<int>(out.shape[1]);
    const cublasStatus_t code = multiply_(
        handle_, CUBLAS_OP_T, CUBLAS_OP_N, outputs, rows, cols, &one, w, type, cols, x.data, type,
        cols, &zero, out.data, CUDA_R_32F, outputs, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    if (code != CUBLAS_STATUS_SUCCESS) gpu_.Check(cudaErrorUnknown, "multiplying by cuBLAS");
  }

 private:
  using Gemm = cublasStatus_t (*)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int,
                                  int, const void*, const void*, cudaDataType, int, const void*,
                                  cudaDataType, int, const void*, void*, cudaDataType, int,
                                  cublasComputeType_t, cublasGemmAlgo_t);

  template <typename Function>
  bool Find(const char* name, Function* function) {
    *function = reinterpret_cast<Function>(dlsym(library_, name));
    return *function != nullptr;
  }

  Gpu& gpu_;
  void* library_ = nullptr;
  cublasHandle_t handle_ = nullptr;
  decltype(&cublasDestroy) destroy_ = nullptr;
  Gemm multiply_ = nullptr;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Cublas>> Cublas::Open(Gpu& gpu) {
  auto cublas = std::make_unique<LoadedCublas>(gpu);
  if (absl::Status status = cublas->Load(); !status.ok()) return status;
  return cublas;
}

}  // namespace tuppence::cuda
