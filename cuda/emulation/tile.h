// The verbs of cuda/tile.cuh as loops, with the fragment layouts of PTX. See there.
#pragma once

#include <bit>
#include <cmath>

#include "cuda/emulation/grid.h"
#include "model/float16.h"

struct uint4 {
  uint32_t x, y, z, w;
};

namespace tuppence::cuda_emulated {

inline float Widen(F16 x) { return ToFloat(x); }
inline float Widen(Bf16 x) { return ToFloat(x); }
inline float Widen(float x) { return x; }

template <typename Half>
Half Narrow(float x);
template <>
inline F16 Narrow<F16>(float x) {
  return ToF16(x);
}
template <>
inline Bf16 Narrow<Bf16>(float x) {
  return ToBf16(x);
}
template <>
inline float Narrow<float>(float x) {
  return x;
}

inline float Exp2(float x) { return std::exp2(x); }
inline float Exp(float x) { return std::exp(x); }
inline float Log(float x) { return std::log(x); }
inline double Log(double x) { return std::log(x); }
inline float InverseRoot(float x) { return 1.0f / std::sqrt(x); }
inline float Fma(float a, float b, float c) { return std::fma(a, b, c); }
inline uint32_t BitsOf(float x) { return std::bit_cast<uint32_t>(x); }
inline float FloatOf(uint32_t bits) { return std::bit_cast<float>(bits); }

template <typename T>
T ShuffleXor(T x, int mask) {
  struct Part {
    T value;
    int mask;
    T result;
  } part{x, mask, x};
  emulation::MeetWarp("shuffle", &part, [](const emulation::Parts& parts) {
    for (int lane = 0; lane < emulation::kLanes; ++lane) {
      Part& mine = *static_cast<Part*>(parts[lane]);
      mine.result = static_cast<Part*>(parts[lane ^ mine.mask])->value;
    }
  });
  return part.result;
}
inline void WarpBarrier() {
  emulation::MeetWarp("warp barrier", nullptr, [](const emulation::Parts&) {});
}

inline void AtomicAdd(unsigned long long* at, unsigned long long value) { *at += value; }
inline int AtomicAdd(int* at, int value) {
  const int before = *at;
  *at += value;
  return before;
}
inline void AtomicMax(unsigned long long* at, unsigned long long value) {
  if (value > *at) *at = value;
}

inline void CheckAligned16(const void* at) {
  if (reinterpret_cast<uintptr_t>(at) % 16 != 0) {
    emulation::Fail("16 bytes are read or written at an address that is no multiple of 16");
  }
}

inline uint4 LoadStream(const void* source) {
  CheckAligned16(source);
  return *static_cast<const uint4*>(source);
}

inline void CopyAsync16(void* target, const void* source, bool valid) {
  CheckAligned16(target);
  if (valid) CheckAligned16(source);
  emulation::StartCopy(target, valid ? source : nullptr, 16);
  if (emulation::running.arch < 80) emulation::WaitCopies(-1);
}
inline void CommitCopies() { emulation::CommitCopies(); }
template <int kGroupsLeft>
void WaitCopies() {
  emulation::WaitCopies(kGroupsLeft);
}

inline void LoadTilesTurned(const void* row, uint32_t (&words)[4]) {
  struct Part {
    const uint16_t* row;
    uint32_t* words;
  } part{static_cast<const uint16_t*>(row), words};
  CheckAligned16(row);
  emulation::MeetWarp("ldmatrix", &part, [](const emulation::Parts& parts) {
    const auto at = [&](int tile, int r, int column) -> uint32_t {
      return static_cast<Part*>(parts[tile * 8 + r])->row[column];
    };
    for (int lane = 0; lane < emulation::kLanes; ++lane) {
      uint32_t* const out = static_cast<Part*>(parts[lane])->words;
      const int g = lane / 4, q = lane % 4;
      for (int tile = 0; tile < 4; ++tile) {
        out[tile] = at(tile, 2 * q, g) | at(tile, 2 * q + 1, g) << 16;
      }
    }
  });
}

template <typename Half>
uint32_t WidenNibbles(uint32_t word) {
  const auto code = [](uint32_t nibble) {
    return static_cast<float>(static_cast<int>(nibble & 15) - 8);
  };
  return Narrow<Half>(code(word)).bits | static_cast<uint32_t>(Narrow<Half>(code(word >> 16)).bits)
                                             << 16;
}

struct Product {
  float* c;
  const uint32_t* a;  // 8 words: two fragments
  const uint32_t* b;  // 4 words
};

// In the order of the instruction that `arch` has; defined for F16 and Bf16 in emulation/tile.cc.
template <typename Half>
void MultiplyTiles(const emulation::Parts& parts);

template <typename Half>
void Multiply32(float (&c)[4], const uint32_t (&a)[8], const uint32_t (&b)[4]) {
  Product part{c, a, b};
  emulation::MeetWarp("mma", &part, MultiplyTiles<Half>);
}

}  // namespace tuppence::cuda_emulated
