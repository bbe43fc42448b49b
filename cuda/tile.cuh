// The verbs that kernels are made of beyond plain C++: 16-bit floats, warp sums, matrix tiles,
// asynchronous copies. The only file with PTX; cuda/emulation/tile.h has the same verbs as loops.
//
// Fragments of a tile multiplication, PTX ISA "mma.m16n8k16" and "mma.m16n8k8"; lane = 4 g + q:
//   a  16 x 16  word 0: row g, columns 2q, 2q + 1     word 1: row g + 8, the same columns
//               word 2: row g, columns 2q + 8, + 9    word 3: row g + 8, the same columns
//   b  16 x 8   word 0: rows 2q, 2q + 1 of column g   word 1: rows 2q + 8, 2q + 9 of it
//   c  16 x 8   0, 1: row g, columns 2q, 2q + 1       2, 3: row g + 8, the same columns
// sm_75 multiplies 16 x 8 x 8 at a time: the same words, the first two of a and the first of b,
// then the others. It has neither bf16 tiles nor asynchronous copies; there a copy is done at once.
//
// Half is F16 or Bf16 of model/float16.h: 16 bits that the verbs give their meaning.
#pragma once

#include <type_traits>

#include "cuda/device.h"
#include "model/float16.h"

#if defined(TUPPENCE_EMULATED)
#include "cuda/emulation/tile.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace tuppence::cuda {

__device__ inline float Widen(F16 x) { return __half2float(__ushort_as_half(x.bits)); }
__device__ inline float Widen(Bf16 x) { return __uint_as_float(uint32_t{x.bits} << 16); }
__device__ inline float Widen(float x) { return x; }

// To nearest even.
template <typename Half>
__device__ inline Half Narrow(float x);
template <>
__device__ inline F16 Narrow<F16>(float x) {
  return F16{__half_as_ushort(__float2half_rn(x))};
}
template <>
__device__ inline Bf16 Narrow<Bf16>(float x) {
  return Bf16{__bfloat16_as_ushort(__float2bfloat16_rn(x))};
}
template <>
__device__ inline float Narrow<float>(float x) {
  return x;
}

__device__ inline float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float Exp(float x) { return expf(x); }
__device__ inline float Log(float x) { return logf(x); }
__device__ inline double Log(double x) { return log(x); }
__device__ inline float InverseRoot(float x) { return 1.0f / sqrtf(x); }
__device__ inline float Fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ inline uint32_t BitsOf(float x) { return __float_as_uint(x); }
__device__ inline float FloatOf(uint32_t bits) { return __uint_as_float(bits); }

__device__ inline float ShuffleXor(float x, int mask) {
  return __shfl_xor_sync(0xffffffffu, x, mask);
}
__device__ inline uint32_t ShuffleXor(uint32_t x, int mask) {
  return __shfl_xor_sync(0xffffffffu, x, mask);
}
__device__ inline unsigned long long ShuffleXor(unsigned long long x, int mask) {
  return __shfl_xor_sync(0xffffffffu, x, mask);
}
// What lane `from` has.
__device__ inline uint32_t Shuffle(uint32_t x, int from) {
  return __shfl_sync(0xffffffffu, x, from);
}
// A bit for each lane.
__device__ inline uint32_t Ballot(bool vote) { return __ballot_sync(0xffffffffu, vote); }
// Of a number that is not 0.
__device__ inline int LowestBit(uint32_t bits) { return __ffs(static_cast<int>(bits)) - 1; }
__device__ inline void WarpBarrier() { __syncwarp(); }

// Byte i of the result is the one that nibble i of `selector` counts out of a's four and b's four.
__device__ inline uint32_t BytePermute(uint32_t a, uint32_t b, uint32_t selector) {
  return __byte_perm(a, b, selector);
}

__device__ inline void AtomicAdd(unsigned long long* at, unsigned long long value) {
  atomicAdd(at, value);
}
__device__ inline int AtomicAdd(int* at, int value) { return atomicAdd(at, value); }
__device__ inline void AtomicMax(unsigned long long* at, unsigned long long value) {
  atomicMax(at, value);
}

// 16 bytes that are read once: they pass the first-level cache by.
__device__ inline uint4 LoadStream(const void* source) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(source));
  return v;
}

// Whether copies into shared memory go on while the thread does other work.
__device__ constexpr bool HasAsyncCopies() {
#if __CUDA_ARCH__ >= 800
  return true;
#else
  return false;
#endif
}

// Starts a copy of 16 bytes into shared memory; with `valid` false, of zeros. It has landed after
// WaitCopies of its group and a barrier.
__device__ inline void CopyAsync16(void* target, const void* source, bool valid) {
#if __CUDA_ARCH__ >= 800
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(target));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(source),
               "r"(valid ? 16 : 0)
               : "memory");
#else
  *static_cast<uint4*>(target) =
      valid ? *static_cast<const uint4*>(source) : make_uint4(0, 0, 0, 0);
#endif
}
__device__ inline void CommitCopies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int kGroupsLeft>
__device__ inline void WaitCopies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroupsLeft) : "memory");
#endif
}

// (x & mask) | base, in one instruction.
__device__ inline uint32_t MaskInto(uint32_t x, uint32_t mask, uint32_t base) {
  uint32_t y;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(y) : "r"(x), "r"(mask), "r"(base));
  return y;
}

// Four 8 x 8 tiles of 16-bit values from shared memory, each turned: lane l gives the address of
// row l % 8 of tile l / 8; word i of lane 4 g + q is rows 2q, 2q + 1 of column g of tile i.
__device__ inline void LoadTilesTurned(const void* row, uint32_t (&words)[4]) {
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(at)
               : "memory");
}

// An 8 x 8 tile of 16-bit values that lies in a warp's registers, turned: lane 4 g + q has columns
// 2q, 2q + 1 of row g, and gets rows 2q, 2q + 1 of column g.
__device__ inline uint32_t TurnTile(uint32_t word) {
  uint32_t turned;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(turned) : "r"(word));
  return turned;
}

// c += a b, 16 x 16 times 16 x 8.
template <typename Half>
__device__ inline void Multiply16(float (&c)[4], const uint32_t* a, const uint32_t* b);

template <>
__device__ inline void Multiply16<F16>(float (&c)[4], const uint32_t* a, const uint32_t* b) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  for (int half = 0; half < 2; ++half) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
  }
#endif
}

template <>
__device__ inline void Multiply16<Bf16>(float (&c)[4], const uint32_t* a, const uint32_t* b) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();  // the backend never asks for bf16 there
#endif
}

// Two values in a word, the first in the low half.
template <typename Half>
__device__ inline uint32_t NarrowPair(float first, float second);
template <>
__device__ inline uint32_t NarrowPair<F16>(float first, float second) {
  const __half2 pair = __floats2half2_rn(first, second);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
template <>
__device__ inline uint32_t NarrowPair<Bf16>(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// a - b, pair by pair.
template <typename Half>
__device__ inline uint32_t SubtractPair(uint32_t a, uint32_t b);
template <>
__device__ inline uint32_t SubtractPair<F16>(uint32_t a, uint32_t b) {
  const __half2 pair =
      __hsub2(*reinterpret_cast<const __half2*>(&a), *reinterpret_cast<const __half2*>(&b));
  return *reinterpret_cast<const uint32_t*>(&pair);
}
template <>
__device__ inline uint32_t SubtractPair<Bf16>(uint32_t a, uint32_t b) {
#if __CUDA_ARCH__ >= 800
  const __nv_bfloat162 pair = __hsub2(*reinterpret_cast<const __nv_bfloat162*>(&a),
                                      *reinterpret_cast<const __nv_bfloat162*>(&b));
  return *reinterpret_cast<const uint32_t*>(&pair);
#else
  __trap();
  return a - b;
#endif
}

// c += a b, 16 x 32 times 32 x 8: the first 16 of the 32, then the others.
template <typename Half>
__device__ inline void Multiply32(float (&c)[4], const uint32_t (&a)[8], const uint32_t (&b)[4]) {
  Multiply16<Half>(c, a, b);
  Multiply16<Half>(c, a + 4, b + 2);
}

}  // namespace tuppence::cuda
#endif

namespace tuppence::TUPPENCE_DEVICE {

template <typename Half>
constexpr bool kIsBf16 = std::is_same_v<Half, Bf16>;

// Two codes of four bits, each code + 8, at bits 0 and 16 of the word. Put below the last place of
// 1024 (f16) or 128 (bf16) they are that number plus the code + 8, which is then taken off,
// exactly.
template <typename Half>
__device__ inline uint32_t WidenNibbles(uint32_t word) {
  const uint32_t base = kIsBf16<Half> ? 0x43004300u : 0x64006400u;
  return SubtractPair<Half>(MaskInto(word, 0x000f000fu, base), base | 0x00080008u);
}

// Codes of eight bits, in the same way: turned to code + 128 by FlipCodes, then put below the last
// place of 2^23, or of 1024. A conversion from integers would do the same at a quarter of the rate.
__device__ inline uint32_t FlipCodes(uint32_t four_codes) { return four_codes ^ 0x80808080u; }
__device__ inline float WidenCode(uint32_t flipped, int i) {
  constexpr float kOffset = 8388608.0f + 128.0f;
  return FloatOf(BytePermute(flipped, 0x4b000000u, 0x7440u + static_cast<uint32_t>(i))) - kOffset;
}
// Codes 2 pair and 2 pair + 1.
template <typename Half>
__device__ inline uint32_t WidenCodes(uint32_t flipped, int pair) {
  if constexpr (kIsBf16<Half>) {
    // bf16 has seven bits for eight: 128 + the lower seven, less 128, or 256 of a negative code.
    const uint32_t codes = BytePermute(flipped, 0, 0x4140u + static_cast<uint32_t>(pair) * 0x0202u);
    return SubtractPair<Half>(MaskInto(codes, 0x007f007fu, 0x43004300u),
                              MaskInto(~codes, 0x00800080u, 0x43004300u));
  } else {
    const uint32_t biased =
        BytePermute(flipped, 0x64646464u, 0x4140u + static_cast<uint32_t>(pair) * 0x0202u);
    return SubtractPair<Half>(biased, 0x64806480u);
  }
}

template <typename T>
__device__ inline T WarpSum(T x) {
  for (int mask = kWarpLanes / 2; mask > 0; mask /= 2) x += ShuffleXor(x, mask);
  return x;
}
template <typename T>
__device__ inline T WarpMax(T x) {
  for (int mask = kWarpLanes / 2; mask > 0; mask /= 2) {
    const T other = ShuffleXor(x, mask);
    x = other > x ? other : x;
  }
  return x;
}

}  // namespace tuppence::TUPPENCE_DEVICE
