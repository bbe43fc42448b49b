// The kernel table of AVX2 with FMA and F16C.
#if defined(__x86_64__)

#define TUPPENCE_SIMD_AVX2
#include "cpu/kernels_table.h"

namespace tuppence {

Kernels KernelsAvx2() {
  Kernels table = avx2::MakeTable(KernelPath::kAvx2);
  AddMatmulsAvx2(&table);
  return table;
}

}  // namespace tuppence

#endif
