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

// Where a table's rows lie: `together` of them side by side, 64 bytes of each in turn.
struct EmbedTable {
  const std::byte* data = nullptr;
  int together = 1;
  int64_t together_bytes = 0;
};

template <typename Stored>
__global__ void EmbedKernel(EmbedTable table, const int32_t* token_ids, int hidden, float* out) {
  constexpr int kPieceValues = 16 / static_cast<int>(sizeof(Stored));
  const int row = token_ids[BlockX()];
  const std::byte* const first =
      table.data + row / table.together * table.together_bytes + row % table.together * 64;
  float* const target = out + static_cast<int64_t>(BlockX()) * hidden;
  for (int piece = Thread(); piece * kPieceValues < hidden; piece += kRowThreads) {
    const auto* const values = reinterpret_cast<const Stored*>(
        first + static_cast<int64_t>(piece / 4) * table.together * 64 + piece % 4 * 16);
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
