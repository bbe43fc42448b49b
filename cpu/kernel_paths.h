// Which kernel paths this machine has, and which of them is used. The flag of an instruction does
// not say whether it is fast (vdpbf16ps doubles a Zen 5's f32 rate and halves an Intel's), so a
// table by CPU family, measured by op_bench, decides; `--kernels` overrides it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tuppence {

enum class KernelPath : uint8_t { kAuto, kPlain, kAvx2, kAvx512, kAvx512Bf16, kAmx };

// "auto", "plain", "avx2", "avx512", "avx512bf16", "amx".
absl::string_view NameOf(KernelPath path);
absl::StatusOr<KernelPath> ParseKernelPath(absl::string_view name);

// What the processor has and the system lets us use.
struct CpuFeatures {
  std::string vendor;  // "GenuineIntel", "AuthenticAMD", ...
  int family = 0;
  int model = 0;
  bool avx2 = false;    // with FMA and F16C
  bool avx512 = false;  // F, BW, DQ and VL
  bool avx512_vnni = false;
  bool avx512_bf16 = false;
  bool amx_bf16 = false;  // and the kernel has given permission to use tiles

  bool Has(KernelPath path) const;
};

// Asks the kernel for AMX's tiles too, which lasts for the process. Thread: any; call it before
// threads are started.
CpuFeatures DetectCpuFeatures();

// From plain to the most demanding.
std::vector<KernelPath> AvailablePaths(const CpuFeatures& features);

struct KernelChoice {
  KernelPath path = KernelPath::kPlain;
  std::string reason;  // one clause for the log: "Intel with AMX: ..."
};

// kAuto takes the table's row. FAILED_PRECONDITION, naming what the machine has, if it lacks the
// requested path.
absl::StatusOr<KernelChoice> ChooseKernelPath(KernelPath requested, const CpuFeatures& features);

}  // namespace tuppence
