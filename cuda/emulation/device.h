// CUDA's words for a plain C++ compiler, and the emulated half of cuda/device.h.
#pragma once

#include "cuda/emulation/grid.h"

#define TUPPENCE_UNROLL
#define __host__
#define __device__
#define __global__ inline
#define __launch_bounds__(threads)

namespace tuppence::cuda_emulated {

inline int Thread() { return emulation::ThreadIndex(); }
inline int Threads() { return emulation::ThreadCount(); }
inline int BlockX() { return emulation::BlockIndex().x; }
inline int BlockY() { return emulation::BlockIndex().y; }
inline int BlockZ() { return emulation::BlockIndex().z; }
inline void Barrier() { emulation::BlockBarrier(); }

template <typename T>
T& Shared() {
  return *reinterpret_cast<T*>(emulation::SharedMemory());
}

}  // namespace tuppence::cuda_emulated
