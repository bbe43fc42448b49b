// The shapes of AMX's eight tiles, as the processor reads them. Used by the matmul of AMX and by
// the benchmark of its peak.
#pragma once

#if defined(__x86_64__)

#include <cstdint>

#include "cpu/intrinsics.h"

namespace tuppence {

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

__attribute__((target("amx-tile"))) inline void LoadTileConfig(const TileConfig& config) {
  // GCC 12 drops the stores to config before the load, which then faults.
  asm volatile("" ::"r"(&config) : "memory");
  _tile_loadconfig(&config);
}

}  // namespace tuppence

#endif
