// exp and silu on sixteen lanes, from exactly rounded operations alone, so that every kernel path
// gives the same bits. Used by the kernel headers.
#pragma once

#include "cpu/simd.h"

TUPPENCE_SIMD_BEGIN

namespace tuppence::TUPPENCE_SIMD_NAMESPACE {

// exp(x) = 2^n * exp(r), n = round(x / ln 2), |r| <= ln(2) / 2. ln 2 is taken off in two parts, so
// r is off by less than 2^-27; the polynomial (Cephes expf) by 2^-26 of the result; the roundings
// of the last three steps dominate. ops_test holds it to 2 units in the last place everywhere.
// Below -104 the result is 0, above 89 infinity; NaN stays NaN; exp(0) is exactly 1.
TUPPENCE_INLINE F32 Exp(F32 x) {
  x = Max(Set(-104.0f), x);
  x = Min(Set(89.0f), x);
  const F32 n = RoundToEven(Mul(x, Set(1.44269504088896341f)));
  F32 r = Fma(n, Set(-0.693359375f), x);
  r = Fma(n, Set(2.12194440e-4f), r);
  F32 p = Set(1.9875691500e-4f);
  p = Fma(p, r, Set(1.3981999507e-3f));
  p = Fma(p, r, Set(8.3334519073e-3f));
  p = Fma(p, r, Set(4.1665795894e-2f));
  p = Fma(p, r, Set(1.6666665459e-1f));
  p = Fma(p, r, Set(5.0000001201e-1f));
  p = Fma(Mul(p, r), r, r);
  return MulPow2(Add(p, Set(1.0f)), n);
}

// silu(g) = g / (1 + exp(-g)).
TUPPENCE_INLINE F32 Silu(F32 g) { return Div(g, Add(Set(1.0f), Exp(Sub(Zero(), g)))); }

}  // namespace tuppence::TUPPENCE_SIMD_NAMESPACE

TUPPENCE_SIMD_END
