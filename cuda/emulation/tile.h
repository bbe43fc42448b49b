// The verbs of cuda/tile.cuh as loops, with the fragment layouts of PTX. See there.
#pragma once

#include <bit>
#include <cmath>

#include "cuda/emulation/grid.h"
#include "model/float16.h"

struct uint2 {
  uint32_t x, y;
};
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
T Shuffle(T x, int from) {
  struct Part {
    T value;
    int from;
    T result;
  } part{x, from, x};
  emulation::MeetWarp("shuffle", &part, [](const emulation::Parts& parts) {
    for (int lane = 0; lane < emulation::kLanes; ++lane) {
      Part& mine = *static_cast<Part*>(parts[lane]);
      mine.result = static_cast<Part*>(parts[mine.from])->value;
    }
  });
  return part.result;
}
template <typename T>
T ShuffleXor(T x, int mask) {
  return Shuffle(x, emulation::running.thread % emulation::kLanes ^ mask);
}
inline uint32_t Ballot(bool vote) {
  struct Part {
    bool vote;
    uint32_t all;
  } part{vote, 0};
  emulation::MeetWarp("ballot", &part, [](const emulation::Parts& parts) {
    uint32_t all = 0;
    for (int lane = 0; lane < emulation::kLanes; ++lane) {
      all |= (static_cast<Part*>(parts[lane])->vote ? 1u : 0u) << lane;
    }
    for (void* const one : parts) static_cast<Part*>(one)->all = all;
  });
  return part.all;
}
inline uint32_t MaskInto(uint32_t x, uint32_t mask, uint32_t base) { return (x & mask) | base; }
inline int LowestBit(uint32_t bits) { return std::countr_zero(bits); }
inline void WarpBarrier() {
  emulation::MeetWarp("warp barrier", nullptr, [](const emulation::Parts&) {});
}

inline uint32_t BytePermute(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    result |= static_cast<uint32_t>(bytes >> ((selector >> (4 * i) & 7) * 8) & 0xff) << (8 * i);
  }
  return result;
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

inline bool HasAsyncCopies() { return emulation::running.arch >= 80; }
inline void CopyAsync16(void* target, const void* source, bool valid) {
  CheckAligned16(target);
  if (valid) CheckAligned16(source);
  emulation::StartCopy(target, valid ? source : nullptr, 16);
  if (!HasAsyncCopies()) emulation::WaitCopies(-1);
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

inline uint32_t TurnTile(uint32_t word) {
  struct Part {
    uint32_t word;
    uint32_t turned;
  } part{word, 0};
  emulation::MeetWarp("movmatrix", &part, [](const emulation::Parts& parts) {
    const auto at = [&](int row, int column) {
      const uint32_t pair = static_cast<Part*>(parts[4 * row + column / 2])->word;
      return pair >> (column % 2 * 16) & 0xffffu;
    };
    for (int lane = 0; lane < emulation::kLanes; ++lane) {
      const int g = lane / 4, q = lane % 4;
      static_cast<Part*>(parts[lane])->turned = at(2 * q, g) | at(2 * q + 1, g) << 16;
    }
  });
  return part.turned;
}

template <typename Half>
uint32_t NarrowPair(float first, float second) {
  return Narrow<Half>(first).bits | static_cast<uint32_t>(Narrow<Half>(second).bits) << 16;
}

template <typename Half>
uint32_t SubtractPair(uint32_t a, uint32_t b) {
  const auto half = [](uint32_t bits) { return Widen(Half{static_cast<uint16_t>(bits)}); };
  return NarrowPair<Half>(half(a) - half(b), half(a >> 16) - half(b >> 16));
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
