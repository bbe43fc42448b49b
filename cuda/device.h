// What kernels and their launchers see of the machine: thread and block numbers, shared memory,
// barriers and Launch. The same kernels are compiled twice: by nvcc into namespace tuppence::cuda,
// and as C++ against cuda/emulation into tuppence::cuda_emulated, where every thread is a fibre.
// So a kernel says Thread(), never threadIdx.x, and instructions beyond C++ are verbs of tile.cuh.
//
// Thread blocks are one-dimensional and whole warps. All shared memory is one struct of the kernel,
// Shared<T>(), whose size its launcher names for the emulation.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(TUPPENCE_EMULATED)
#include "cuda/emulation/device.h"
#else
#include <cuda_runtime.h>

#define TUPPENCE_UNROLL _Pragma("unroll")
#define TUPPENCE_TEXT(text) #text
#define TUPPENCE_UNROLL_BY(count) _Pragma(TUPPENCE_TEXT(unroll count))
#endif

#include "cuda/gpu.h"
#include "cuda/namespace.h"

namespace tuppence::TUPPENCE_DEVICE {

constexpr int kWarpLanes = 32;
// Of a block, on every architecture and without opting in.
constexpr size_t kSharedBytesMax = size_t{48} << 10;

struct LaunchShape {
  const char* name = "";
  int blocks_x = 1;
  int blocks_y = 1;
  int blocks_z = 1;
  int threads = 0;
  size_t shared_bytes = 0;
};

#if !defined(TUPPENCE_EMULATED)

__device__ inline int Thread() { return static_cast<int>(threadIdx.x); }
__device__ inline int Threads() { return static_cast<int>(blockDim.x); }
__device__ inline int BlockX() { return static_cast<int>(blockIdx.x); }
__device__ inline int BlockY() { return static_cast<int>(blockIdx.y); }
__device__ inline int BlockZ() { return static_cast<int>(blockIdx.z); }
__device__ inline void Barrier() { __syncthreads(); }

template <typename T>
__device__ inline T& Shared() {
  static_assert(sizeof(T) <= kSharedBytesMax);
  __shared__ T shared;  // static, so that ptxas reports its size for each kernel
  return shared;
}

// Enqueues a kernel. A failure is latched by `gpu` and comes out of its Synchronize.
template <typename... Parameters, typename... Arguments>
void Launch(Gpu& gpu, void (*kernel)(Parameters...), const LaunchShape& shape,
            Arguments... arguments) {
  const dim3 grid(shape.blocks_x, shape.blocks_y, shape.blocks_z);
  kernel<<<grid, shape.threads, 0, static_cast<cudaStream_t>(gpu.stream())>>>(arguments...);
  gpu.Check(cudaGetLastError(), shape.name);
}

#else

template <typename... Parameters, typename... Arguments>
void Launch(Gpu& gpu, void (*kernel)(Parameters...), const LaunchShape& shape,
            Arguments... arguments) {
  const emulation::GridSpec spec{shape.name,
                                 {shape.blocks_x, shape.blocks_y, shape.blocks_z},
                                 shape.threads,
                                 shape.shared_bytes,
                                 gpu.arch()};
  const int error = emulation::LaunchError();
  gpu.Check(error, shape.name);
  if (error == 0) emulation::RunGrid(spec, [&] { kernel(arguments...); });
}

#endif

__device__ inline int Lane() { return Thread() % kWarpLanes; }
__device__ inline int Warp() { return Thread() / kWarpLanes; }

template <typename T>
__host__ __device__ constexpr T CeilDiv(T a, T b) {
  return (a + b - 1) / b;
}

}  // namespace tuppence::TUPPENCE_DEVICE
