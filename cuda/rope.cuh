// Rope with the write to the cache, and work on whole blocks of the cache.
//
// Formula   (a, b) of channels i and half + i becomes (a cos - b sin, b cos + a sin), each product
//           rounded; then k and v are rounded to the page's type, or quantised as model/quantize
//           says: scale = f16(amax / 127), code = clip(round(x / scale)), one group for each head.
// Mapping   one warp for each token and head of q, k and v; a lane takes channels lane, lane + 32,
// ...
//           and reads the other one of each pair beside its own.
// Traffic   qkv once in, q and k once out, k and v once to the pages; bound by memory.
#pragma once

#include "cuda/tile.cuh"
#include "model/batch.h"

namespace tuppence::TUPPENCE_DEVICE {

constexpr int kRopeWarps = 4;
constexpr int kHeadDimMax = 128;
constexpr int kLaneValues = kHeadDimMax / kWarpLanes;

// The sine and cosine of the f32 angle, taken in double: within one rounding for any position.
__global__ void RopeAnglesKernel(const int32_t* positions, const RopeRegime* regimes,
                                 const float* frequencies, float short_factor, float long_factor,
                                 int half, float* out) {
  const int token = BlockX();
  const bool is_long = regimes[token] == RopeRegime::kLong;
  const float factor = is_long ? long_factor : short_factor;
  for (int i = Thread(); i < half; i += kWarpLanes) {
    const float frequency = frequencies[(is_long ? half : 0) + i];
    const double angle = static_cast<double>(static_cast<float>(positions[token]) * frequency);
    float* const row = out + static_cast<int64_t>(token) * 2 * half;
    row[i] = static_cast<float>(cos(angle)) * factor;
    row[half + i] = static_cast<float>(sin(angle)) * factor;
  }
}

struct RopeArgs {
  float* qkv = nullptr;
  const float* angles = nullptr;
  const int32_t* slots = nullptr;
  void* keys = nullptr;
  void* values = nullptr;
  uint16_t* key_scales = nullptr;
  uint16_t* value_scales = nullptr;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int half = 0;  // of the channels that turn
  int block_tokens = 0;
};

// A lane's share of one head: channels lane, lane + 32, ... Unrolled, so that it stays in
// registers.
struct LaneHead {
  float values[kLaneValues];
};
__device__ inline int ChannelOf(int n) { return Lane() + n * kWarpLanes; }

__device__ inline LaneHead LoadTurned(const float* head, const float* angles, const RopeArgs& args,
                                      bool turn) {
  LaneHead mine;
  TUPPENCE_UNROLL
  for (int n = 0; n < kLaneValues; ++n) {
    const int channel = ChannelOf(n), half = args.half;
    mine.values[n] = channel < args.head_dim ? head[channel] : 0.0f;
    if (!turn || channel >= 2 * half) continue;
    const bool first = channel < half;
    const float other = head[first ? channel + half : channel - half];
    const float cosine = angles[first ? channel : channel - half];
    const float sine = angles[first ? channel + half : channel];
    const float turned = other * sine;
    mine.values[n] = first ? mine.values[n] * cosine - turned : mine.values[n] * cosine + turned;
  }
  return mine;
}

template <typename Half>
__device__ inline void StoreHead(const LaneHead& mine, int head_dim, Half* page, uint16_t*) {
  TUPPENCE_UNROLL
  for (int n = 0; n < kLaneValues; ++n) {
    if (ChannelOf(n) < head_dim) page[ChannelOf(n)] = Narrow<Half>(mine.values[n]);
  }
}

// A head with a NaN or infinity gets the scale NaN, so that it shows in the result.
__device__ inline void StoreHead(const LaneHead& mine, int head_dim, int8_t* page,
                                 uint16_t* scale) {
  constexpr uint32_t kInfinityBits = 0x7f800000u;
  uint32_t most = 0;
  TUPPENCE_UNROLL
  for (int n = 0; n < kLaneValues; ++n) {
    const uint32_t bits = BitsOf(mine.values[n]) & 0x7fffffffu;
    most = bits > most ? bits : most;
  }
  most = WarpMax(most);
  const bool finite = most < kInfinityBits;
  const float ratio = FloatOf(most) / 127.0f;
  const F16 rounded = finite ? Narrow<F16>(ratio < 65504.0f ? ratio : 65504.0f) : F16{0x7e00};
  const float step = Widen(rounded);
  if (Lane() == 0) *scale = rounded.bits;
  TUPPENCE_UNROLL
  for (int n = 0; n < kLaneValues; ++n) {
    float code = 0;
    if (step > 0) {
      constexpr float kRound = 12582912.0f;  // 1.5 * 2^23 leaves no bits for a fraction
      const float quotient = mine.values[n] / step;
      const float clipped = quotient < -127.0f ? -127.0f : quotient > 127.0f ? 127.0f : quotient;
      code = (clipped + kRound) - kRound;
    }
    if (ChannelOf(n) < head_dim) page[ChannelOf(n)] = static_cast<int8_t>(code);
  }
}

template <typename Kv>
__global__ void __launch_bounds__(kRopeWarps* kWarpLanes) RopeStoreKernel(RopeArgs args) {
  const int token = BlockX(), head = BlockY() * kRopeWarps + Warp();
  const int heads = args.heads + 2 * args.kv_heads;
  if (head >= heads) return;
  float* const row = args.qkv + (static_cast<int64_t>(token) * heads + head) * args.head_dim;
  const bool is_value = head >= args.heads + args.kv_heads;
  const LaneHead mine =
      LoadTurned(row, args.angles + static_cast<int64_t>(token) * 2 * args.half, args, !is_value);
  WarpBarrier();  // all lanes have read what some now write
  if (!is_value) StoreHead(mine, args.head_dim, row, nullptr);
  if (head < args.heads) return;
  const int kv_head = (head - args.heads) % args.kv_heads;
  const int slot = args.slots[token];
  const int64_t page_row =
      (static_cast<int64_t>(slot / args.block_tokens) * args.kv_heads + kv_head) *
          args.block_tokens +
      slot % args.block_tokens;
  Kv* const pages = static_cast<Kv*>(is_value ? args.values : args.keys);
  uint16_t* const scales = is_value ? args.value_scales : args.key_scales;
  StoreHead(mine, args.head_dim, pages + page_row * args.head_dim, scales + page_row);
}

// Some whole blocks, by value: no list needs to travel first.
constexpr int kBlocksOfCall = 64;
constexpr int kMoveThreads = 256;
struct BlockList {
  int32_t from[kBlocksOfCall];
  int32_t to[kBlocksOfCall];
};

// Block to[i] becomes block from[i], or zeros where that is negative, in pieces as large as divide
// a block: 16 bytes, but for scales of odd block sizes.
template <typename Piece>
__global__ void MoveBlocksKernel(Piece* pages, int64_t block_pieces, int blocks_x, BlockList list) {
  const int from = list.from[BlockY()];
  Piece* const target = pages + list.to[BlockY()] * block_pieces;
  const Piece* const source = pages + (from < 0 ? 0 : from) * block_pieces;
  const int64_t stride = int64_t{kMoveThreads} * blocks_x;
  for (int64_t i = int64_t{BlockX()} * kMoveThreads + Thread(); i < block_pieces; i += stride) {
    target[i] = from < 0 ? Piece{} : source[i];
  }
}

}  // namespace tuppence::TUPPENCE_DEVICE
