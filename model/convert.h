// Conversions between stored types, and the search for values that are no numbers. Used while
// loading; every loop is simple enough for the compiler to vectorise.
#pragma once

#include <cstdint>

#include "model/float16.h"
#include "model/tensor.h"

namespace tuppence {

// Index of the first NaN or infinity among `count` f32, bf16 or f16 values; -1: all are numbers.
int64_t FindNotFinite(DType type, const void* values, int64_t count);

// f32, bf16 or f16 to f32: exact. Requires: all values are finite.
void ConvertToF32(DType type, const void* values, int64_t count, float* out);

// f32, bf16 or f16 to bf16: nearest even. Requires: all values are finite.
void ConvertToBf16(DType type, const void* values, int64_t count, Bf16* out);

// f32, bf16 or f16 to f16: nearest even. Returns the index of the first value that is too large for
// f16 (beyond 65504, after rounding), -1 if there is none. Requires: all values are finite.
int64_t ConvertToF16(DType type, const void* values, int64_t count, F16* out);

}  // namespace tuppence
