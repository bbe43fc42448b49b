#include "cpu/thread_pool.h"

#include <pthread.h>

#include "model/check.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tuppence {

namespace {

// Ops of a step follow one another within microseconds; waking a sleeper takes 5 to 50. So a
// waiting thread looks about 2,000 times (some 30 us) before it sleeps.
constexpr int kSpins = 2000;

void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Waits until value differs from `seen`.
void WaitForChange(const std::atomic<int32_t>& value, int32_t seen) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != seen) return;
    Pause();
  }
  value.wait(seen, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  CHECK_GE(threads, 1);
  workers_.reserve(threads - 1);
  for (int thread = 1; thread < threads; ++thread) {
    workers_.emplace_back([this, thread] { WorkerLoop(thread); });
  }
}

ThreadPool::~ThreadPool() {
  stopping_.store(true, std::memory_order_relaxed);
  jobs_.fetch_add(1, std::memory_order_release);
  jobs_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(int64_t chunks, Function function, const void* body) {
  CHECK_LT(chunks, int64_t{1} << 31);
  CHECK_EQ(chunks_left_.load(std::memory_order_relaxed), 0);
  function_ = function;
  body_ = body;
  chunks_ = static_cast<int32_t>(chunks);
  chunks_finished_.store(0, std::memory_order_relaxed);
  chunks_left_.store(chunks_, std::memory_order_release);
  jobs_.fetch_add(1, std::memory_order_release);
  jobs_.notify_all();
  TakeChunksUntilNone(0);
  for (;;) {
    const int32_t finished = chunks_finished_.load(std::memory_order_acquire);
    if (finished == chunks_) return;
    WaitForChange(chunks_finished_, finished);
  }
}

void ThreadPool::WorkerLoop(int thread) {
  pthread_setname_np(pthread_self(), "compute");  // as top -H, perf and gdb show it
  int32_t seen = 0;
  for (;;) {
    WaitForChange(jobs_, seen);
    seen = jobs_.load(std::memory_order_acquire);
    if (stopping_.load(std::memory_order_relaxed)) return;
    TakeChunksUntilNone(thread);
  }
}

bool ThreadPool::TakeChunk(int64_t& chunk) {
  int32_t left = chunks_left_.load(std::memory_order_relaxed);
  while (left > 0) {
    if (chunks_left_.compare_exchange_weak(left, left - 1, std::memory_order_acq_rel,
                                           std::memory_order_relaxed)) {
      chunk = chunks_ - left;
      return true;
    }
  }
  return false;
}

void ThreadPool::TakeChunksUntilNone(int thread) {
  int64_t chunk;
  while (TakeChunk(chunk)) {
    function_(body_, chunk, thread);
    // The sum may be complete, and the caller gone, as soon as this is added: touch only the
    // pool itself afterwards.
    chunks_finished_.fetch_add(1, std::memory_order_acq_rel);
    chunks_finished_.notify_one();
  }
}

}  // namespace tuppence
