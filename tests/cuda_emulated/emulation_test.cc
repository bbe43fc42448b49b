// The emulated GPU must catch what a real one would punish: kernels with planted bugs, each beside
// its sound sister. And its tile verbs must lay fragments out as PTX says.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "cuda/tile.cuh"

namespace tuppence::cuda_emulated {
namespace {

constexpr int kThreads = 64;

struct Words {
  uint32_t values[kThreads];
};

std::unique_ptr<Gpu> Open(int arch) { return *Gpu::Open(arch); }

// Device memory for `count` values.
template <typename T>
class Device {
 public:
  Device(Gpu& gpu, int count)
      : gpu_(gpu), data_(static_cast<T*>(gpu.Allocate(count * sizeof(T)))) {}
  ~Device() { gpu_.Free(data_); }
  T* data() const { return data_; }

 private:
  Gpu& gpu_;
  T* data_;
};

// out[i] = the number of the thread that stands opposite.
template <bool kWithBarrier>
void Reverse(uint32_t* out) {
  auto& shared = Shared<Words>();
  shared.values[Thread()] = static_cast<uint32_t>(Thread());
  if constexpr (kWithBarrier) Barrier();
  out[Thread()] = shared.values[kThreads - 1 - Thread()];
}

// Wrong values of one launch.
template <bool kWithBarrier>
int ReverseWrong(Gpu& gpu) {
  const Device<uint32_t> out(gpu, kThreads);
  Launch(gpu, &Reverse<kWithBarrier>,
         {.name = "reverse", .threads = kThreads, .shared_bytes = sizeof(Words)}, out.data());
  int wrong = 0;
  for (uint32_t i = 0; i < kThreads; ++i) wrong += out.data()[i] != kThreads - 1 - i ? 1 : 0;
  return wrong;
}

TEST(EmulationTest, MissingBarrierShowsInEveryOrderOfThreads) {
  const std::unique_ptr<Gpu> gpu = Open(80);
  for (int order = 0; order < 6; ++order) {
    EXPECT_EQ(ReverseWrong<true>(*gpu), 0);
    EXPECT_GT(ReverseWrong<false>(*gpu), 0);
  }
}

// Copies 16 bytes for each thread through shared memory.
template <bool kWithWait>
void CopyThrough(const uint4* in, uint4* out) {
  struct Pieces {
    uint4 pieces[kThreads];
  };
  auto& shared = Shared<Pieces>();
  CopyAsync16(&shared.pieces[Thread()], in + Thread(), true);
  CommitCopies();
  if constexpr (kWithWait) WaitCopies<0>();
  Barrier();
  out[Thread()] = shared.pieces[kThreads - 1 - Thread()];
  WaitCopies<0>();
}

template <bool kWithWait>
int CopyWrong(Gpu& gpu) {
  const Device<uint4> in(gpu, kThreads), out(gpu, kThreads);
  for (uint32_t i = 0; i < kThreads; ++i) in.data()[i] = {i, 2 * i, 3 * i, 4 * i};
  Launch(gpu, &CopyThrough<kWithWait>,
         {.name = "copy_through", .threads = kThreads, .shared_bytes = kThreads * sizeof(uint4)},
         in.data(), out.data());
  int wrong = 0;
  for (uint32_t i = 0; i < kThreads; ++i) {
    wrong += out.data()[i].z != 3 * (kThreads - 1 - i) ? 1 : 0;
  }
  return wrong;
}

TEST(EmulationTest, MissingWaitLeavesPoison) {
  const std::unique_ptr<Gpu> ampere = Open(80), turing = Open(75);
  EXPECT_EQ(CopyWrong<true>(*ampere), 0);
  EXPECT_GT(CopyWrong<false>(*ampere), 0);
  EXPECT_EQ(CopyWrong<false>(*turing), 0);  // which copies at once
}

void CopyAndForget(const uint4* in) {
  CopyAsync16(&Shared<uint4>(), in, true);
  CommitCopies();
}

TEST(EmulationDeathTest, CopyThatNobodyWaitsForIsReported) {
  const std::unique_ptr<Gpu> gpu = Open(80);
  const Device<uint4> in(*gpu, 1);
  EXPECT_DEATH(Launch(*gpu, &CopyAndForget,
                      {.name = "forgetful", .threads = 32, .shared_bytes = sizeof(uint4)},
                      static_cast<const uint4*>(in.data())),
               "never waited for; kernel forgetful");
}

// Each thread takes a tile of 4 words of a row of `words`; the last tile is cut only where asked.
template <bool kCut>
void SumTiles(const uint32_t* row, int words, uint32_t* out) {
  uint32_t sum = 0;
  for (int i = Thread() * 4; i < Thread() * 4 + 4; ++i) {
    if (!kCut || i < words) sum += row[i];
  }
  out[Thread()] = sum;
}

template <bool kCut>
void RunSumTiles(Gpu& gpu) {
  constexpr int kWords = 32 * 4 - 8;  // the last two tiles are not there
  const Device<uint32_t> row(gpu, kWords), out(gpu, 32);
  for (int i = 0; i < kWords; ++i) row.data()[i] = 1;
  Launch(gpu, &SumTiles<kCut>, {.name = "sum_tiles", .threads = 32},
         static_cast<const uint32_t*>(row.data()), kWords, out.data());
  EXPECT_EQ(out.data()[0], 4u);
  EXPECT_EQ(out.data()[31], 0u);
}

TEST(EmulationDeathTest, TileOutOfBoundsIsReported) {
  const std::unique_ptr<Gpu> gpu = Open(80);
  RunSumTiles<true>(*gpu);
  EXPECT_DEATH(RunSumTiles<false>(*gpu),
               "byte 4[89].* of an allocation of 480 bytes; kernel sum_tiles .*thread 3");
}

void HalfABarrier() {
  if (Thread() < 32) Barrier();
}

TEST(EmulationDeathTest, BarrierThatNotAllThreadsReachIsReported) {
  const std::unique_ptr<Gpu> gpu = Open(80);
  EXPECT_DEATH(Launch(*gpu, &HalfABarrier, {.name = "half", .threads = 64}),
               "32 of 64 threads wait at a barrier .*kernel half .*seed");
}

void HalfAShuffle() {
  if (Thread() % 2 == 0) ShuffleXor(1.0f, 2);
}

TEST(EmulationDeathTest, ShuffleThatNotAllLanesReachIsReported) {
  const std::unique_ptr<Gpu> gpu = Open(80);
  EXPECT_DEATH(Launch(*gpu, &HalfAShuffle, {.name = "half", .threads = 32}),
               "only 16 of 32 lanes of warp 0 come to shuffle");
}

void Nothing() {}

TEST(EmulationDeathTest, LimitsAreThoseOfTheArchitecture) {
  const std::unique_ptr<Gpu> turing = Open(75), ampere = Open(80);
  const LaunchShape large{.name = "large", .threads = 32, .shared_bytes = 100 << 10};
  Launch(*ampere, &Nothing, large);
  EXPECT_DEATH(Launch(*turing, &Nothing, large), "large asks for 102400 bytes of shared memory");
  EXPECT_DEATH(Launch(*ampere, &Nothing, {.name = "wide", .threads = 2048}), "2048 threads");
}

// PTX ISA, "Matrix fragments for mma.m16n8k16": the layout is written out here a second time, in
// PTX's own terms, group = lane / 4 and in_group = lane % 4.
template <typename Half>
void MultiplyOnce(const float* a, const float* b, float* c) {
  const int group = Lane() >> 2, in_group = Lane() % 4;
  uint32_t a_words[8], b_words[4];
  for (int fragment = 0; fragment < 2; ++fragment) {
    for (int word = 0; word < 4; ++word) {
      float pair[2];
      for (int i = 0; i < 2; ++i) {
        const int element = 2 * word + i;  // a0 to a7
        const int row = element < 2 || (element >= 4 && element < 6) ? group : group + 8;
        const int col = in_group * 2 + (element & 1) + (element >= 4 ? 8 : 0);
        pair[i] = a[row * 32 + fragment * 16 + col];
      }
      a_words[fragment * 4 + word] = NarrowPair<Half>(pair[0], pair[1]);
    }
    for (int word = 0; word < 2; ++word) {
      float pair[2];
      for (int i = 0; i < 2; ++i) {
        const int element = 2 * word + i;  // b0 to b3
        const int row = in_group * 2 + (element & 1) + (element >= 2 ? 8 : 0);
        pair[i] = b[(fragment * 16 + row) * 8 + group];
      }
      b_words[fragment * 2 + word] = NarrowPair<Half>(pair[0], pair[1]);
    }
  }
  float sums[4] = {1, 2, 3, 4};
  Multiply32<Half>(sums, a_words, b_words);
  for (int element = 0; element < 4; ++element) {
    const int row = element < 2 ? group : group + 8, col = in_group * 2 + (element & 1);
    c[row * 8 + col] = sums[element] - static_cast<float>(element + 1);
  }
}

template <typename Half>
void ExpectProduct(int arch) {
  const std::unique_ptr<Gpu> gpu = Open(arch);
  const Device<float> a(*gpu, 16 * 32), b(*gpu, 32 * 8), c(*gpu, 16 * 8);
  for (int i = 0; i < 16 * 32; ++i) a.data()[i] = static_cast<float>((i * 7 + 3) % 31 - 15);
  for (int i = 0; i < 32 * 8; ++i) b.data()[i] = static_cast<float>((i * 5 + 1) % 17 - 8);
  Launch(*gpu, &MultiplyOnce<Half>, {.name = "multiply", .threads = 32},
         static_cast<const float*>(a.data()), static_cast<const float*>(b.data()), c.data());
  for (int row = 0; row < 16; ++row) {
    for (int col = 0; col < 8; ++col) {
      float sum = 0;
      for (int k = 0; k < 32; ++k) sum += a.data()[row * 32 + k] * b.data()[k * 8 + col];
      EXPECT_EQ(c.data()[row * 8 + col], sum) << row << ", " << col;
    }
  }
}

TEST(TileTest, MultiplicationHasTheFragmentsOfPtxOnBothArchitectures) {
  ExpectProduct<F16>(75);
  ExpectProduct<F16>(80);
  ExpectProduct<Bf16>(80);
}

TEST(TileDeathTest, TuringHasNoBf16Tiles) {
  EXPECT_DEATH(ExpectProduct<Bf16>(75), "sm_75 multiplies no bf16 tiles");
}

// PTX ISA, movmatrix: thread T of the source holds columns 2 (T % 4), 2 (T % 4) + 1 of row T / 4.
void TurnInRegisters(uint32_t* out) {
  const uint32_t first = static_cast<uint32_t>(Lane() / 4 * 8 + Lane() % 4 * 2);
  out[Lane()] = TurnTile(first | (first + 1) << 16);
}

TEST(TileTest, TurnInRegistersIsAsPtxSays) {
  const std::unique_ptr<Gpu> gpu = Open(75);
  const Device<uint32_t> out(*gpu, 32);
  Launch(*gpu, &TurnInRegisters, {.name = "turn", .threads = 32}, out.data());
  for (uint32_t lane = 0; lane < 32; ++lane) {
    const uint32_t row = lane % 4 * 2, column = lane / 4;
    EXPECT_EQ(out.data()[lane], (row * 8 + column) | ((row + 1) * 8 + column) << 16);
  }
}

TEST(TileTest, EveryCodeIsWidenedExactly) {
  for (int code = -128; code < 128; ++code) {
    const uint32_t other = static_cast<uint8_t>(code ^ 0x55);
    const uint32_t flipped = FlipCodes(static_cast<uint8_t>(code) * 0x01010001u | other << 8);
    const auto both = [&](float first) {
      return std::pair(first, static_cast<float>(static_cast<int8_t>(other)));
    };
    const auto widened = [&]<typename Half>(Half) {
      const uint32_t pair = WidenCodes<Half>(flipped, 0);
      return std::pair(Widen(Half{static_cast<uint16_t>(pair)}),
                       Widen(Half{static_cast<uint16_t>(pair >> 16)}));
    };
    EXPECT_EQ(WidenCode(flipped, 2), static_cast<float>(code));
    EXPECT_EQ(widened(F16{}), both(static_cast<float>(code)));
    EXPECT_EQ(widened(Bf16{}), both(static_cast<float>(code)));
    EXPECT_EQ(WidenCodes<F16>(flipped, 1),
              NarrowPair<F16>(static_cast<float>(code), static_cast<float>(code)));
    EXPECT_EQ(WidenCodes<Bf16>(flipped, 1),
              NarrowPair<Bf16>(static_cast<float>(code), static_cast<float>(code)));
  }
  for (uint32_t code = 0; code < 16; ++code) {
    const uint32_t word = code | (15 - code) << 16;
    const float first = static_cast<float>(code) - 8, second = 7 - static_cast<float>(code);
    EXPECT_EQ(WidenNibbles<F16>(word), NarrowPair<F16>(first, second));
    EXPECT_EQ(WidenNibbles<Bf16>(word), NarrowPair<Bf16>(first, second));
  }
}

// PTX ISA, ldmatrix with .trans: thread T of tile i holds rows 2 (T % 4), 2 (T % 4) + 1 of column
// T / 4.
void TurnTiles(uint32_t* out) {
  struct Rows {
    uint16_t values[32][8];
  };
  auto& shared = Shared<Rows>();
  for (int i = 0; i < 8; ++i) shared.values[Lane()][i] = static_cast<uint16_t>(Lane() * 8 + i);
  WarpBarrier();
  uint32_t words[4];
  LoadTilesTurned(shared.values[Lane()], words);
  for (int tile = 0; tile < 4; ++tile) out[Lane() * 4 + tile] = words[tile];
}

TEST(TileTest, LoadTurnsTilesAsPtxSays) {
  const std::unique_ptr<Gpu> gpu = Open(75);
  const Device<uint32_t> out(*gpu, 32 * 4);
  Launch(*gpu, &TurnTiles, {.name = "turn", .threads = 32, .shared_bytes = 32 * 16}, out.data());
  for (uint32_t lane = 0; lane < 32; ++lane) {
    for (uint32_t tile = 0; tile < 4; ++tile) {
      const uint32_t first = (tile * 8 + lane % 4 * 2) * 8 + lane / 4;
      EXPECT_EQ(out.data()[lane * 4 + tile], first | (first + 8) << 16);
    }
  }
}

}  // namespace
}  // namespace tuppence::cuda_emulated
