// Embedding gather and row selection.
//
// Formula   out[t] = table[token_ids[t]], widened to f32;   out[r] = x[logit_tokens[r]]
// Mapping   one block for each row; a thread takes pieces of 16 bytes, piece, piece + threads, ...
// Traffic   each row once in, once out; bound by memory, and small.
#pragma once

#include "cuda/packed_matrix.h"
#include "cuda/tile.cuh"

namespace tuppence::TUPPENCE_DEVICE {

constexpr int kRowThreads = 128;

template <typename Stored>
__global__ void EmbedKernel(const std::byte* table, int loads, const int32_t* token_ids, int hidden,
                            float* out) {
  constexpr int kPieceValues = 16 / static_cast<int>(sizeof(Stored));
  const int row = token_ids[BlockX()];
  const std::byte* const panel = table +
                                 static_cast<int64_t>(row / kPanelOutputs) * loads * kLoadBytes +
                                 row % kPanelOutputs * 64;
  float* const target = out + static_cast<int64_t>(BlockX()) * hidden;
  for (int piece = Thread(); piece * kPieceValues < hidden; piece += kRowThreads) {
    const auto* const values = reinterpret_cast<const Stored*>(
        panel + static_cast<int64_t>(piece / 4) * kLoadBytes + piece % 4 * 16);
    for (int i = 0; i < kPieceValues; ++i) target[piece * kPieceValues + i] = Widen(values[i]);
  }
}

// Rows of whole 16-byte pieces.
__global__ void SelectRowsKernel(const uint4* x, const int32_t* logit_tokens, int row_pieces,
                                 uint4* out) {
  const uint4* const source = x + static_cast<int64_t>(logit_tokens[BlockX()]) * row_pieces;
  for (int piece = Thread(); piece < row_pieces; piece += kRowThreads) {
    out[static_cast<int64_t>(BlockX()) * row_pieces + piece] = source[piece];
  }
}

}  // namespace tuppence::TUPPENCE_DEVICE
