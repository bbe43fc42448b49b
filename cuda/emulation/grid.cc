#include "cuda/emulation/grid.h"

#include <signal.h>

#include <algorithm>
#include <boost/context/fiber.hpp>
#include <boost/context/fixedsize_stack.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "cuda/emulation/memory.h"
#include "model/check.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace tuppence::emulation {

constinit thread_local Running running;

namespace {

using boost::context::fiber;

constexpr int kThreadsMax = 1024;
constexpr size_t kStackBytes = size_t{64} << 10;

enum class State : uint8_t { kReady, kInWarp, kAtBarrier, kDone };

struct PendingCopy {
  void* target;
  const void* source;
  size_t bytes;
  int group;
};

// Something that runs on a stack of its own: a thread of the block, or the scheduler.
struct Fibre {
  fiber context;
  const void* stack = nullptr;  // for the address sanitizer, as the next two
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;
};

// One thread of a block; its fibre is used again by the next block.
struct Thread {
  Fibre fibre;
  State state = State::kDone;
  std::vector<PendingCopy> copies;
  int group = 0;  // of the copies that are started now
};

struct Warp {
  const char* verb = nullptr;
  int arrived = 0;
  Parts parts = {};
};

// The fixed-size stack of Boost, which tells where it is.
struct Stack : boost::context::fixedsize_stack {
  explicit Stack(Fibre* fibre) : boost::context::fixedsize_stack(kStackBytes), owner(fibre) {}
  boost::context::stack_context allocate() {
    const boost::context::stack_context context = boost::context::fixedsize_stack::allocate();
    owner->stack = static_cast<char*>(context.sp) - context.size;
    owner->stack_bytes = context.size;
    return context;
  }
  Fibre* owner;
};

class BlockRunner {
 public:
  ~BlockRunner();
  void Run(const GridSpec& spec, const std::function<void()>& body);
  void Wait(State state);
  void Meet(const char* verb, void* part, void (*act)(const Parts&));

  const GridSpec* spec() const { return spec_; }
  uint64_t seed() const { return seed_; }
  Thread& thread() { return threads_[running.thread]; }

 private:
  void Order(std::vector<int>& order);
  void Prepare();
  void RunBlock();
  void RunWarp(int warp);
  int NextReady(int warp);
  void StartFibre(int index);
  void SwitchTo(Fibre& to);
  void Arrived(fiber&& from);
  fiber End();
  [[noreturn]] void ReportBarrier();

  const GridSpec* spec_ = nullptr;
  const std::function<void()>* body_ = nullptr;
  std::vector<Thread> threads_{kThreadsMax};
  std::vector<Warp> warps_{kThreadsMax / kLanes};
  std::vector<int> warp_order_, lane_order_;
  int next_in_order_ = 0;  // of the lanes
  Fibre scheduler_;
  Fibre* current_ = &scheduler_;
  Fibre* left_ = nullptr;  // whom the switch under way comes from
  bool ending_ = false;
  uint64_t launches_ = 0;
  uint64_t seed_ = 0;
  std::mt19937_64 random_;
};

BlockRunner& Runner() {
  thread_local std::unique_ptr<BlockRunner> runner = std::make_unique<BlockRunner>();
  return *runner;
}

std::string Where() {
  const BlockRunner& runner = Runner();
  if (runner.spec() == nullptr) return "outside any kernel";
  char text[256];
  std::snprintf(text, sizeof(text), "kernel %s (sm_%d), block (%d, %d, %d), thread %d, seed %llu",
                runner.spec()->name, running.arch, running.block.x, running.block.y,
                running.block.z, running.thread, static_cast<unsigned long long>(runner.seed()));
  return text;
}

void OnBadAccess(int signal_number, siginfo_t* info, void*) {
  std::fprintf(stderr, "emulated GPU: access out of bounds: %s; %s\n", DescribeNear(info->si_addr),
               Where().c_str());
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

void CatchBadAccesses() {
  static const bool done = [] {
    struct sigaction action = {};
    action.sa_sigaction = OnBadAccess;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    return sigaction(SIGSEGV, &action, nullptr) == 0 && sigaction(SIGBUS, &action, nullptr) == 0;
  }();
  CHECK(done);
}

void CheckLimits(const GridSpec& spec) {
  const auto check = [&](bool fits, const char* what, int64_t value, int64_t most) {
    if (fits) return;
    std::fprintf(stderr, "emulated GPU: kernel %s asks for %lld %s; sm_%d has %lld\n", spec.name,
                 static_cast<long long>(value), what, spec.arch, static_cast<long long>(most));
    std::abort();
  };
  check(spec.threads > 0 && spec.threads <= kThreadsMax, "threads", spec.threads, kThreadsMax);
  check(spec.threads % kLanes == 0, "threads, no whole warps", spec.threads, kThreadsMax);
  const int64_t shared = static_cast<int64_t>(spec.shared_bytes);
  const int64_t most = static_cast<int64_t>(SharedBytesMax(spec.arch));
  check(shared <= most, "bytes of shared memory", shared, most);
  check(spec.grid.x > 0, "blocks in x", spec.grid.x, (int64_t{1} << 31) - 1);
  check(spec.grid.y > 0 && spec.grid.y <= 65535, "blocks in y", spec.grid.y, 65535);
  check(spec.grid.z > 0 && spec.grid.z <= 65535, "blocks in z", spec.grid.z, 65535);
}

// Launches take turns: forward, reverse, shuffled for each block.
void BlockRunner::Order(std::vector<int>& order) {
  std::iota(order.begin(), order.end(), 0);
  if (launches_ % 3 == 1) std::reverse(order.begin(), order.end());
  if (launches_ % 3 == 2) std::shuffle(order.begin(), order.end(), random_);
}

void BlockRunner::Run(const GridSpec& spec, const std::function<void()>& body) {
  CHECK(spec_ == nullptr);  // a kernel launches no kernel
  CheckLimits(spec);
  CatchBadAccesses();
  spec_ = &spec;
  body_ = &body;
  seed_ = OrderSeed();
  if (launches_++ == 0) random_.seed(seed_);
  running.threads = spec.threads;
  running.arch = spec.arch;
  running.shared = static_cast<std::byte*>(AllocateGuarded(spec.shared_bytes));
  CHECK(running.shared != nullptr);
  warp_order_.resize(spec.threads / kLanes);
  lane_order_.resize(kLanes);
  const int64_t blocks = int64_t{spec.grid.x} * spec.grid.y * spec.grid.z;
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t index = launches_ % 3 == 1 ? blocks - 1 - i : i;
    running.block.x = static_cast<int>(index % spec.grid.x);
    running.block.y = static_cast<int>(index / spec.grid.x % spec.grid.y);
    running.block.z = static_cast<int>(index / spec.grid.x / spec.grid.y);
    if (i > 0) std::memset(running.shared, 0xff, (spec.shared_bytes + 15) / 16 * 16);
    RunBlock();
  }
  FreeGuarded(running.shared);
  running = {};
  spec_ = nullptr;
}

void BlockRunner::Prepare() {
  Order(warp_order_);
  Order(lane_order_);
  for (Warp& warp : warps_) warp.arrived = 0;
  for (int i = 0; i < spec_->threads; ++i) {
    Thread& thread = threads_[i];
    thread.state = State::kReady;
    thread.copies.clear();
    thread.group = 0;
    if (!thread.fibre.context) StartFibre(i);
  }
}

// Warps run one after the other, each to its next barrier; then the barrier opens.
void BlockRunner::RunBlock() {
  Prepare();
  const auto first = threads_.begin(), last = first + spec_->threads;
  while (true) {
    for (const int warp : warp_order_) RunWarp(warp);
    const auto waiting = std::count_if(
        first, last, [](const Thread& thread) { return thread.state == State::kAtBarrier; });
    if (waiting == 0) break;
    if (waiting != spec_->threads) ReportBarrier();
    for (auto thread = first; thread != last; ++thread) thread->state = State::kReady;
  }
}

// The first lane runs until it waits, then hands on to the next, and so on; when none is left that
// could run, the scheduler goes on.
void BlockRunner::RunWarp(int warp) {
  const int first = NextReady(warp);
  if (first < 0) return;
  running.thread = first;
  SwitchTo(threads_[first].fibre);
  if (warps_[warp].arrived == 0) return;
  Fail(std::string("only ") + std::to_string(warps_[warp].arrived) + " of 32 lanes of warp " +
       std::to_string(warp) + " come to " + warps_[warp].verb);
}

int BlockRunner::NextReady(int warp) {
  for (int i = 0; i < kLanes; ++i) {
    next_in_order_ = (next_in_order_ + 1) % kLanes;
    const int index = warp * kLanes + lane_order_[next_in_order_];
    if (threads_[index].state == State::kReady) return index;
  }
  return -1;
}

void BlockRunner::Wait(State state) {
  const int mine = running.thread;
  threads_[mine].state = state;
  const int next = NextReady(mine / kLanes);
  if (next == mine) return;
  if (next >= 0) running.thread = next;
  SwitchTo(next < 0 ? scheduler_ : threads_[next].fibre);
  running.thread = mine;
}

void BlockRunner::ReportBarrier() {
  int waiting = 0, done = 0;
  for (int i = 0; i < spec_->threads; ++i) {
    waiting += threads_[i].state == State::kAtBarrier ? 1 : 0;
    done += threads_[i].state == State::kDone ? 1 : 0;
  }
  Fail(std::to_string(waiting) + " of " + std::to_string(spec_->threads) +
       " threads wait at a barrier that the others (" + std::to_string(done) +
       " have ended) never reach");
}

void BlockRunner::StartFibre(int index) {
  Thread* const thread = &threads_[index];
  thread->fibre.context =
      fiber(std::allocator_arg, Stack(&thread->fibre), [this, thread](fiber&& from) -> fiber {
        Arrived(std::move(from));
        while (true) {
          (*body_)();
          if (!thread->copies.empty()) Fail("the thread ends with copies that it never waited for");
          Wait(State::kDone);
          if (ending_) return End();
        }
      });
}

// The fibres return: unwinding them would be an exception on each stack.
BlockRunner::~BlockRunner() {
  ending_ = true;
  for (Thread& thread : threads_) {
    if (thread.fibre.context) SwitchTo(thread.fibre);
  }
}

// The last switch of a fibre: its stack is given back.
fiber BlockRunner::End() {
  left_ = current_;
  current_ = &scheduler_;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(nullptr, scheduler_.stack, scheduler_.stack_bytes);
#endif
  return std::move(scheduler_.context);
}

// Returns when somebody switches back.
void BlockRunner::SwitchTo(Fibre& to) {
  left_ = current_;
  current_ = &to;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&left_->fake_stack, to.stack, to.stack_bytes);
#endif
  Arrived(std::move(to.context).resume());
}

// `from` is the context of the fibre that has just switched to this one.
void BlockRunner::Arrived(fiber&& from) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(current_->fake_stack, &left_->stack, &left_->stack_bytes);
#endif
  left_->context = std::move(from);
}

void BlockRunner::Meet(const char* verb, void* part, void (*act)(const Parts&)) {
  const int first = running.thread / kLanes * kLanes;
  Warp& warp = warps_[running.thread / kLanes];
  if (warp.arrived == 0) warp.verb = verb;
  if (warp.verb != verb && std::strcmp(warp.verb, verb) != 0) {
    Fail(std::string("lanes of a warp come to ") + warp.verb + " and to " + verb);
  }
  warp.parts[running.thread - first] = part;
  if (++warp.arrived < kLanes) {
    Wait(State::kInWarp);
    return;
  }
  act(warp.parts);
  warp.arrived = 0;
  for (int lane = 0; lane < kLanes; ++lane) threads_[first + lane].state = State::kReady;
}

}  // namespace

void RunGrid(const GridSpec& spec, const std::function<void()>& body) { Runner().Run(spec, body); }

uint64_t OrderSeed() {
  const char* const text = std::getenv("TUPPENCE_TEST_SEED");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 20261124;
}

// CUDA C++ programming guide, "Technical specifications per compute capability"; one KiB of each
// block is the system's from 8.0 on.
size_t SharedBytesMax(int arch) {
  const size_t kib = arch >= 90 ? 227 : arch == 80 ? 163 : arch > 80 ? 99 : 64;
  return kib << 10;
}

void Fail(const std::string& what) {
  std::fprintf(stderr, "emulated GPU: %s; %s\n", what.c_str(), Where().c_str());
  std::abort();
}

void BlockBarrier() { Runner().Wait(State::kAtBarrier); }

void MeetWarp(const char* verb, void* part, void (*act)(const Parts&)) {
  Runner().Meet(verb, part, act);
}

void StartCopy(void* target, const void* source, size_t bytes) {
  Thread& thread = Runner().thread();
  std::memset(target, 0xff, bytes);
  thread.copies.push_back({target, source, bytes, thread.group});
}

void CommitCopies() { ++Runner().thread().group; }

void WaitCopies(int groups_left) {
  Thread& thread = Runner().thread();
  const auto landed = [&](const PendingCopy& copy) {
    if (copy.group >= thread.group - groups_left) return false;
    if (copy.source == nullptr) {
      std::memset(copy.target, 0, copy.bytes);
    } else {
      std::memcpy(copy.target, copy.source, copy.bytes);
    }
    return true;
  };
  std::erase_if(thread.copies, landed);
}

}  // namespace tuppence::emulation
