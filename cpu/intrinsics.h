// The compiler's intrinsics, with one false alarm turned off: GCC 12 takes the undefined operand of
// unmasked AVX-512 intrinsics for an uninitialised variable (GCC bug 105593). The warning is off
// for the lines of its header alone.
#pragma once

#if defined(__x86_64__)
#if !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif
