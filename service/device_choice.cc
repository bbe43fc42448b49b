#include "service/device_choice.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cpu/cpu_backend.h"
#include "cpu/cpu_resources.h"
#include "cpu/kernel_paths.h"
#include "service/gpu_backends.h"

namespace tuppence {
namespace {

absl::StatusOr<DType> ParseKv(const std::string& name) {
  if (name == "bf16") return DType::kBf16;
  if (name == "f16") return DType::kF16;
  if (name == "f32") return DType::kF32;
  if (name == "int8") return DType::kI8;
  return absl::InvalidArgumentError(
      absl::StrCat("--kv is \"", name, "\"; allowed is bf16, f16, f32 or int8"));
}

absl::StatusOr<WeightFormat> FormatOf(const ModelOptions& options) {
  absl::StatusOr<WeightFormat> format = ParseWeightFormat(options.weights);
  if (!format.ok() || options.weights_group == 0) return format;
  if (!format->quantised()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--weights-group is ", options.weights_group, ", but --weights ",
                     options.weights, " has no groups; leave it out or take int8 or int4"));
  }
  format->group = options.weights_group;
  return format;
}

absl::Status UseCpu(const ModelOptions& options, DeviceChoice* choice) {
  if (choice->kv == DType::kF16) {
    return absl::InvalidArgumentError(
        "--kv is f16, which the CPU backend does not keep; take bf16, f32 or int8");
  }
  if (options.deterministic == "off") {
    return absl::InvalidArgumentError(
        "--deterministic is off, which is for 16-bit weights on a GPU; the CPU backend has one "
        "arithmetic: leave it out");
  }
  const CpuResources resources = FindCpuResources();
  choice->notes.push_back(absl::StrCat("machine: ", resources.Describe()));
  choice->memory_available_bytes = resources.memory_available_bytes;
  const absl::StatusOr<KernelPath> path = ParseKernelPath(options.kernels);
  if (!path.ok()) return path.status();
  const absl::StatusOr<KernelChoice> kernels = ChooseKernelPath(*path, DetectCpuFeatures());
  if (!kernels.ok()) return kernels.status();
  choice->kernels = absl::StrCat(NameOf(kernels->path), ": ", kernels->reason);
  choice->notes.push_back(
      absl::StrCat("kernels: ", NameOf(kernels->path), " (", kernels->reason, ")"));
  absl::StatusOr<std::unique_ptr<Backend>> backend =
      MakeCpuBackend({.threads = options.threads, .path = *path});
  if (!backend.ok()) return backend.status();
  choice->backend = *std::move(backend);
  return absl::OkStatus();
}

// What the kernels have no form of.
absl::Status CheckForGpu(const ModelOptions& options, const Config& config) {
  if (options.weights == "f32" || options.kv == "f32") {
    return absl::InvalidArgumentError(
        absl::StrCat(options.weights == "f32" ? "--weights" : "--kv",
                     " is f32; a GPU keeps 16-bit types, int8 and (weights) int4; take one of them "
                     "or --backend cpu"));
  }
  if (options.deterministic == "off" && (options.weights == "int8" || options.weights == "int4")) {
    return absl::InvalidArgumentError(
        absl::StrCat("--deterministic is off, which is for 16-bit weights, and --weights is ",
                     options.weights, "; leave one of them out"));
  }
  if (config.head_dim != 64 && config.head_dim != 96 && config.head_dim != 128) {
    return absl::InvalidArgumentError(
        absl::StrCat("the model's head_dim is ", config.head_dim,
                     "; the GPU kernels have 64, 96 and 128; take --backend cpu"));
  }
  return absl::OkStatus();
}

// One 16-bit type for the whole model: that of 16-bit weights, bf16 otherwise; but f16 alone on a
// GPU that has no bf16. Keys and values follow.
void UseOneHalf(int arch, DeviceChoice* choice, CudaOptions* cuda) {
  constexpr int kFirstWithBf16 = 80;
  const bool f16 = arch < kFirstWithBf16 || choice->weights.type == WeightType::kF16;
  cuda->half = f16 ? DType::kF16 : DType::kBf16;
  if (!choice->weights.quantised()) {
    const WeightType type = f16 ? WeightType::kF16 : WeightType::kBf16;
    if (choice->weights.type != type) {
      choice->notes.push_back("weights: f16, as this GPU has no bf16 arithmetic");
    }
    choice->weights.type = type;
  }
  if (choice->kv != DType::kI8 && choice->kv != cuda->half) {
    choice->notes.push_back(
        absl::StrCat("keys and values: ", NameOf(cuda->half), ", as the arithmetic"));
    choice->kv = cuda->half;
  }
}

absl::Status UseGpu(const ModelOptions& options, const GpuBackend& gpu, const CudaDevice& device,
                    const Config& config, DeviceChoice* choice) {
  if (absl::Status status = CheckForGpu(options, config); !status.ok()) return status;
  CudaOptions cuda;
  cuda.deterministic = options.deterministic == "on";
  UseOneHalf(device.arch, choice, &cuda);
  absl::StatusOr<std::unique_ptr<Backend>> backend = gpu.make(cuda);
  if (!backend.ok()) return backend.status();
  choice->backend = *std::move(backend);
  choice->memory_available_bytes = device.memory_free_bytes;
  choice->kernels = absl::StrCat("sm_", device.arch, ", ", NameOf(cuda.half));
  if (!cuda.deterministic) choice->kernels += ", cuBLAS";
  choice->notes.push_back(absl::StrCat("GPU: ", device.description));
  return absl::OkStatus();
}

absl::Status UnknownBackend(const std::string& name) {
  std::vector<std::string> names = {"auto", "cpu"};
  for (const GpuBackend& gpu : GpuBackends()) names.push_back(gpu.name);
  return absl::InvalidArgumentError(absl::StrCat(
      "--backend is \"", name, "\"; this program has ", absl::StrJoin(names, ", "),
      name == "cuda" ? "; it was built without CUDA (cmake --preset cuda, where nvcc is)" : ""));
}

}  // namespace

absl::StatusOr<DeviceChoice> ChooseDevice(const ModelOptions& options, const Config& config) {
  DeviceChoice choice;
  const absl::StatusOr<WeightFormat> format = FormatOf(options);
  if (!format.ok()) return format.status();
  const absl::StatusOr<DType> kv = ParseKv(options.kv);
  if (!kv.ok()) return kv.status();
  choice.weights = *format;
  choice.kv = *kv;
  const auto finish = [&](const absl::Status& status) -> absl::StatusOr<DeviceChoice> {
    if (!status.ok()) return status;
    return std::move(choice);
  };
  const bool automatic = options.backend == "auto";
  for (const GpuBackend& gpu : GpuBackends()) {
    if (automatic ? !gpu.automatic : options.backend != gpu.name) continue;
    const absl::StatusOr<CudaDevice> device = gpu.find({});
    if (device.ok()) return finish(UseGpu(options, gpu, *device, config, &choice));
    if (!automatic) return device.status();
    choice.notes.push_back(
        absl::StrCat("backend: cpu, as ", std::string(device.status().message())));
  }
  if (!automatic && options.backend != "cpu") return UnknownBackend(options.backend);
  return finish(UseCpu(options, &choice));
}

}  // namespace tuppence
