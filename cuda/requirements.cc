#include "cuda/requirements.h"

#include "absl/strings/str_cat.h"

namespace tuppence::TUPPENCE_DEVICE {
namespace {

constexpr int kArchMin = 75;
constexpr int kArchMax = 90;
constexpr char kOtherwise[] = ", or take --backend cpu";

int Major(int version) { return version / 1000; }

std::string Cuda(int version) {
  return absl::StrCat("CUDA ", Major(version), ".", version % 1000 / 10);
}

std::string Capability(int arch) { return absl::StrCat(arch / 10, ".", arch % 10); }

}  // namespace

absl::Status CheckMachine(const FoundMachine& found) {
  const auto refuse = [](auto... parts) {
    return absl::FailedPreconditionError(absl::StrCat(parts..., kOtherwise));
  };
  if (Major(found.runtime) != Major(found.built_with)) {
    return refuse("the kernels were built with ", Cuda(found.built_with), " and ",
                  Cuda(found.runtime), " is linked; build with one toolkit");
  }
  if (found.driver == 0) return refuse("no NVIDIA driver was found; install one");
  // Within a major version any driver runs any runtime.
  if (Major(found.driver) < Major(found.runtime)) {
    return refuse("the NVIDIA driver knows ", Cuda(found.driver), "; this build needs ",
                  Cuda(Major(found.runtime) * 1000), "; install a newer driver");
  }
  if (found.devices == 0) {
    return refuse("no CUDA device was found (", found.devices_error, "); make one visible");
  }
  if (found.arch < kArchMin || found.arch > kArchMax) {
    return refuse(found.device, " has compute capability ", Capability(found.arch),
                  "; the kernels run on ", Capability(kArchMin), " to ", Capability(kArchMax),
                  "; take another GPU");
  }
  if (found.code_arch == 0) {
    return refuse(
        found.device, " has compute capability ", Capability(found.arch),
        ", for which this build has no code; build with -DCMAKE_CUDA_ARCHITECTURES=", found.arch);
  }
  return absl::OkStatus();
}

}  // namespace tuppence::TUPPENCE_DEVICE
