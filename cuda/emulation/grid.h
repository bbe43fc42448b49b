// Runs a kernel's grid on the CPU, one fibre for each thread of a block, so that every kernel is
// executed where there is no GPU. Used by cuda/device.h's Launch and by emulation/tile.h's verbs.
//
// What a GPU would punish shows here:
//   a missing barrier        warps and lanes run in forward, reverse and shuffled orders, by
//   launch;
//                            each runs as far as it can before the next starts
//   a value never written    shared memory is poisoned: bytes 0xff, NaN in every float type
//   a wait too few           an asynchronous copy poisons its target and lands only at its wait
//   a barrier not all reach  reported with the kernel's name and block
//   too much shared memory, too many threads: the limits of the architecture are checked
//   an access out of bounds  device and shared memory end at a guard page (emulation/memory.h)
// A finding is printed with kernel, block, thread and seed, and ends the process.
//
// Thread: any one at a time for each grid; a grid runs wholly on the thread that launches it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace tuppence::emulation {

constexpr int kLanes = 32;

struct Dim3 {
  int x = 1;
  int y = 1;
  int z = 1;
};

struct GridSpec {
  const char* name = "";
  Dim3 grid;
  int threads = 0;  // of a block, one-dimensional
  size_t shared_bytes = 0;
  int arch = 80;  // 75, 80, 86, 89 or 90
};

// Runs `body` once for each thread of each block.
void RunGrid(const GridSpec& spec, const std::function<void()>& body);

// 0, or the error that this launch ends with (emulation/gpu.cc).
int LaunchError();

// The seed of thread orders; TUPPENCE_TEST_SEED sets another.
uint64_t OrderSeed();

// What a block may use on an architecture, after opting in.
size_t SharedBytesMax(int arch);

// Prints what was found, where, and ends the process.
[[noreturn]] void Fail(const std::string& what);

// The running thread, as its kernel sees it. Read in every other line of a kernel, hence no call.
struct Running {
  int thread = 0;
  int threads = 0;  // of its block
  Dim3 block;
  int arch = 0;
  std::byte* shared = nullptr;
};
extern constinit thread_local Running running;

// Waits for all threads of the block.
void BlockBarrier();

// The lanes of a warp meet: each hands over its part, and the last to come runs `act` over all 32,
// in lane order. `verb` names the meeting: lanes that come to different ones are an error.
using Parts = std::array<void*, kLanes>;
void MeetWarp(const char* verb, void* part, void (*act)(const Parts&));

// Asynchronous copies of this thread into shared memory. `source` null: zeros.
void StartCopy(void* target, const void* source, size_t bytes);
void CommitCopies();
// Lets all groups land but the latest `groups_left`.
void WaitCopies(int groups_left);

}  // namespace tuppence::emulation
