// CUDA's words for a plain C++ compiler, and the emulated half of cuda/device.h.
#pragma once

#include "cuda/emulation/grid.h"

#define TUPPENCE_UNROLL
#define TUPPENCE_UNROLL_BY(count)
#define __host__
#define __device__
#define __global__ inline
#define __launch_bounds__(...)

namespace tuppence::cuda_emulated {

inline int Thread() { return emulation::running.thread; }
inline int Threads() { return emulation::running.threads; }
inline int BlockX() { return emulation::running.block.x; }
inline int BlockY() { return emulation::running.block.y; }
inline int BlockZ() { return emulation::running.block.z; }
inline void Barrier() { emulation::BlockBarrier(); }

template <typename T>
T& Shared() {
  return *reinterpret_cast<T*>(emulation::running.shared);
}

}  // namespace tuppence::cuda_emulated
