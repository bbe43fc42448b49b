// The matmul of matmul_int_kernel.h with AVX-512 VNNI's dot product. Same bits as the others:
// dot products are exact integers.
#if defined(__x86_64__)

#define TUPPENCE_SIMD_VNNI
#include "cpu/kernels.h"
#include "cpu/matmul_int_kernel.h"

namespace tuppence {

void MatmulIntVnni(const MatmulCall& call, int64_t first_panel, int64_t last_panel) {
  avx512vnni::MatmulInt(call, first_panel, last_panel);
}

}  // namespace tuppence

#endif
