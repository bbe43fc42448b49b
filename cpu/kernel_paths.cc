#include "cpu/kernel_paths.h"

#include <array>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cpu/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tuppence {

namespace {

struct PathName {
  KernelPath path;
  absl::string_view name;
};
constexpr std::array<PathName, 6> kPathNames = {{
    {KernelPath::kAuto, "auto"},
    {KernelPath::kPlain, "plain"},
    {KernelPath::kAvx2, "avx2"},
    {KernelPath::kAvx512, "avx512"},
    {KernelPath::kAvx512Bf16, "avx512bf16"},
    {KernelPath::kAmx, "amx"},
}};

constexpr int kAnyFamily = -1;

// First matching row whose path the machine has. TFLOPS are of 2 cores, bf16 weights; see
// bench/results (Zen 5's are published figures). Nothing is timed at the start: paths that agree to
// the bit are ranked here, and the others must not be chosen by a noisy minute, or a restart would
// give other tokens.
struct FamilyRow {
  absl::string_view vendor;  // empty: any
  int family;
  KernelPath path;
  absl::string_view reason;
};
constexpr std::array<FamilyRow, 8> kFamilies = {{
    {"GenuineIntel", kAnyFamily, KernelPath::kAmx,
     "Intel with AMX: 2.1 TFLOPS against 0.23 in f32"},
    {"GenuineIntel", kAnyFamily, KernelPath::kAvx512,
     "Intel with AVX-512: f32 0.23 TFLOPS, vdpbf16ps only 0.15"},
    {"AuthenticAMD", 0x1a, KernelPath::kAvx512Bf16,
     "AMD Zen 5: vdpbf16ps 0.94 TFLOPS against 0.51 in f32"},
    {"AuthenticAMD", 0x19, KernelPath::kAvx512Bf16,
     "AMD Zen 4: vdpbf16ps 0.43 TFLOPS against 0.20 in f32"},
    {"", kAnyFamily, KernelPath::kAvx512, "not a measured family: AVX-512 in f32"},
    {"AuthenticAMD", 0x19, KernelPath::kAvx2, "AMD Zen 3, no AVX-512: f32 0.14 TFLOPS"},
    {"", kAnyFamily, KernelPath::kAvx2, "no AVX-512: AVX2 in f32"},
    {"", kAnyFamily, KernelPath::kPlain, "neither AVX-512 nor AVX2: plain C++"},
}};

std::string PathList(const CpuFeatures& features) {
  std::string list;
  for (const KernelPath path : AvailablePaths(features)) {
    absl::StrAppend(&list, list.empty() ? "" : ", ", NameOf(path));
  }
  return list;
}

#if defined(__x86_64__)
uint64_t EnabledStates() {
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

// Linux hands out the 8 KiB of tile state only to those who ask.
bool MayUseTiles() {
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

bool Bit(uint32_t word, int bit) { return ((word >> bit) & 1u) != 0; }

void DetectInstructions(CpuFeatures& features) {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return;
  const bool fma = Bit(c, 12), osxsave = Bit(c, 27), f16c = Bit(c, 29);
  if (!osxsave) return;
  const uint64_t states = EnabledStates();
  const bool ymm = (states & 0x6) == 0x6, zmm = (states & 0xe6) == 0xe6;
  const bool tiles = (states & 0x60000) == 0x60000;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return;
  const uint32_t subleaves = a;
  const bool amx = Bit(d, 22) && Bit(d, 24);  // amx_bf16, amx_tile
  features.avx2 = ymm && Bit(b, 5) && fma && f16c;
  features.avx512 = zmm && features.avx2 && Bit(b, 16) && Bit(b, 17) && Bit(b, 30) && Bit(b, 31);
  features.avx512_vnni = features.avx512 && Bit(c, 11);
  if (subleaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0) {
    features.avx512_bf16 = features.avx512 && Bit(a, 5);
  }
  features.amx_bf16 = amx && tiles && features.avx512 && MayUseTiles();
}
#endif

}  // namespace

absl::string_view NameOf(KernelPath path) {
  for (const PathName& row : kPathNames) {
    if (row.path == path) return row.name;
  }
  return "?";
}

absl::StatusOr<KernelPath> ParseKernelPath(absl::string_view name) {
  for (const PathName& row : kPathNames) {
    if (row.name == name) return row.path;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown kernel path \"", name,
                   "\"; allowed are auto, plain, avx2, avx512, avx512bf16 and amx"));
}

bool CpuFeatures::Has(KernelPath path) const {
  switch (path) {
    case KernelPath::kAuto:
    case KernelPath::kPlain:
      return true;
    case KernelPath::kAvx2:
      return avx2;
    case KernelPath::kAvx512:
      return avx512;
    case KernelPath::kAvx512Bf16:
      return avx512_bf16;
    case KernelPath::kAmx:
      return amx_bf16;
  }
  return false;
}

CpuFeatures DetectCpuFeatures() {
  CpuFeatures features;
#if defined(__x86_64__)
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(0, &a, &b, &c, &d) == 0) return features;
  char vendor[13] = {};
  std::memcpy(vendor, &b, 4);
  std::memcpy(vendor + 4, &d, 4);
  std::memcpy(vendor + 8, &c, 4);
  features.vendor = vendor;
  if (__get_cpuid(1, &a, &b, &c, &d) != 0) {
    const int family = static_cast<int>((a >> 8) & 15), model = static_cast<int>((a >> 4) & 15);
    features.family = family == 15 ? family + static_cast<int>((a >> 20) & 255) : family;
    features.model =
        family == 6 || family == 15 ? model + static_cast<int>((a >> 12) & 0xf0) : model;
  }
  DetectInstructions(features);
#endif
  return features;
}

std::vector<KernelPath> AvailablePaths(const CpuFeatures& features) {
  std::vector<KernelPath> paths;
  for (const PathName& row : kPathNames) {
    if (row.path != KernelPath::kAuto && features.Has(row.path)) paths.push_back(row.path);
  }
  return paths;
}

absl::StatusOr<KernelChoice> ChooseKernelPath(KernelPath requested, const CpuFeatures& features) {
  if (requested != KernelPath::kAuto) {
    if (!features.Has(requested)) {
      return absl::FailedPreconditionError(
          absl::StrCat("this machine does not have the kernel path \"", NameOf(requested),
                       "\"; it has ", PathList(features), "; choose one of these or \"auto\""));
    }
    return KernelChoice{requested, "as asked"};
  }
  for (const FamilyRow& row : kFamilies) {
    const bool matches = (row.vendor.empty() || row.vendor == features.vendor) &&
                         (row.family == kAnyFamily || row.family == features.family);
    if (matches && features.Has(row.path)) return KernelChoice{row.path, std::string(row.reason)};
  }
  return KernelChoice{KernelPath::kPlain, "nothing better found"};
}

Kernels KernelsOf(KernelPath path, const CpuFeatures& features) {
#if defined(__x86_64__)
  if (path == KernelPath::kAvx2) return KernelsAvx2();
  if (path == KernelPath::kAvx512 || path == KernelPath::kAvx512Bf16 || path == KernelPath::kAmx) {
    Kernels table = KernelsAvx512();
    table.path = path;
    table.matmul_int = features.avx512_vnni ? &MatmulIntVnni : KernelsAvx2().matmul_int;
    if (path == KernelPath::kAvx512Bf16) table.matmul_bf16 = &MatmulBf16Dot;
    if (path == KernelPath::kAmx) table.matmul_bf16 = &MatmulAmx;
    table.bf16_tiles = path != KernelPath::kAvx512;
    return table;
  }
#endif
  (void)path;
  (void)features;
  return KernelsPlain();
}

}  // namespace tuppence
