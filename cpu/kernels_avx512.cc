// The kernel table of AVX-512 (F, BW, DQ, VL).
#if defined(__x86_64__)

#define TUPPENCE_SIMD_AVX512
#include "cpu/kernels_table.h"

namespace tuppence {

Kernels KernelsAvx512() { return avx512::MakeTable(KernelPath::kAvx512); }

}  // namespace tuppence

#endif
