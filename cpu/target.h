// Compiles a stretch of code for an instruction set that the rest of the program may not use.
// Used by the simd_*.h headers and the matmul files of one instruction set; nothing else.
//
// The project is never built for one machine: every header that is not about one instruction set
// must be included before TUPPENCE_TARGET_BEGIN, or its inline functions would be compiled for
// that set and, merged by the linker, run on machines that lack it. Lambdas do not inherit the
// target with GCC 12, so none stand in such code.
#pragma once

#define TUPPENCE_PRAGMA(text) _Pragma(#text)

#if defined(__clang__)
#define TUPPENCE_TARGET_BEGIN(isa) \
  TUPPENCE_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define TUPPENCE_TARGET_END TUPPENCE_PRAGMA(clang attribute pop)
#else
#define TUPPENCE_TARGET_BEGIN(isa) \
  TUPPENCE_PRAGMA(GCC push_options) TUPPENCE_PRAGMA(GCC target(isa))
#define TUPPENCE_TARGET_END TUPPENCE_PRAGMA(GCC pop_options)
#endif

#define TUPPENCE_INLINE inline __attribute__((always_inline))
