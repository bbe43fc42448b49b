// Sixteen f32 lanes of the instruction set that the including .cc has chosen with TUPPENCE_SIMD_*
// (plain C++ if none). One .cc, one instruction set.
#pragma once

#if defined(TUPPENCE_SIMD_AVX512) || defined(TUPPENCE_SIMD_VNNI)
#include "cpu/simd_avx512.h"
#elif defined(TUPPENCE_SIMD_AVX2)
#include "cpu/simd_avx2.h"
#else
#include "cpu/simd_plain.h"
#endif
