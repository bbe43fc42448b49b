// A fixed set of threads that share the chunks of one loop at a time. Made once by the CPU backend;
// every op runs its loops on it. The calling thread works too, so one thread means no hand-over.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace tuppence {

class ThreadPool {
 public:
  // `threads` counts the caller: threads - 1 are started. Requires: threads >= 1.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(chunk, thread) once for each chunk in [0, chunks), in any order, on any thread;
  // `thread` in [0, threads()) is unique among calls that run at the same time, so it may pick
  // scratch memory. Returns when all have returned. Allocates nothing.
  // Requires: one caller at a time, and not from inside a body; chunks < 2^31.
  template <typename Body>
  void ParallelFor(int64_t chunks, const Body& body) {
    if (chunks <= 0) return;
    if (chunks == 1 || workers_.empty()) {
      for (int64_t chunk = 0; chunk < chunks; ++chunk) body(chunk, 0);
      return;
    }
    Run(chunks, &Call<Body>, &body);
  }

 private:
  using Function = void (*)(const void* body, int64_t chunk, int thread);

  template <typename Body>
  static void Call(const void* body, int64_t chunk, int thread) {
    (*static_cast<const Body*>(body))(chunk, thread);
  }

  void Run(int64_t chunks, Function function, const void* body);
  void WorkerLoop(int thread);
  bool TakeChunk(int64_t& chunk);
  void TakeChunksUntilNone(int thread);

  // The job. A chunk is taken by lowering `chunks_left_`; whoever took one may read the job, since
  // the caller changes it only after every chunk has finished. A worker that wakes late finds none
  // left and touches nothing, so nobody waits for a thread that the system has not scheduled.
  Function function_ = nullptr;
  const void* body_ = nullptr;
  int32_t chunks_ = 0;
  alignas(64) std::atomic<int32_t> chunks_left_{0};
  alignas(64) std::atomic<int32_t> chunks_finished_{0};
  alignas(64) std::atomic<int32_t> jobs_{0};  // workers sleep on it
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> workers_;
};

}  // namespace tuppence
