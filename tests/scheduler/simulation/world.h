// World: one scenario from its first call to rest: processes that come, drain, crash and come
// again; calls; readers; books; and the checks after every step. One thread, virtual time.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "scheduler/admission.h"
#include "scheduler/engine.h"
#include "scheduler/simulation/virtual_clock.h"
#include "tests/scheduler/simulation/books.h"
#include "tests/scheduler/simulation/call.h"
#include "tests/scheduler/simulation/scenario.h"
#include "tests/scheduler/simulation/simulated_device.h"

namespace tuppence::simulation {

constexpr int kFinishReasons = static_cast<int>(FinishReason::kCostLimit) + 1;

// What a run came to, for the report and the comparison of two runs of one seed.
struct Outcome {
  uint64_t trace = 0;
  int64_t steps = 0;
  int64_t calls = 0;
  int64_t refused = 0;
  int64_t late = 0;    // told at once that they come too late
  int64_t broken = 0;  // by a crash
  int64_t ahead = 0;   // steps planned while the device was at the one before
  int64_t preemptions = 0;
  int64_t recomputed_tokens = 0;
  int64_t pinned = 0;  // calls that were preempted as often as may be
  int64_t cached_tokens = 0;
  std::array<int64_t, kFinishReasons> ends = {};  // by FinishReason

  void Add(const Outcome& other);
};

class World {
 public:
  explicit World(const Scenario& scenario) : scenario_(scenario) {}
  Outcome Run();

 private:
  // One process.
  struct Life {
    Life(const Scenario& scenario, int64_t steps_before, Disk* disk, VirtualClock* clock);
    AdmissionControl admission;
    SimulatedDevice device;
    Books books;
    std::unique_ptr<Engine> engine;
    std::vector<std::unique_ptr<Call>> calls;  // that it took on, in order
    size_t first_open = 0;
    bool draining = false;
    int64_t grace_until_ns = 0;
  };

  void BeginLife();
  void LetHappen();
  void SubmitDue();
  void EndLifeIfDue();
  void Crash();
  void Drain(int64_t deadline_ns);
  void Bury();
  void Step();
  void CheckCalls(int64_t step_begin_ns);
  void CheckTenantCaps();
  void CheckReaders(int64_t step_begin_ns);
  void CheckReader(const SequenceGroup& group, int64_t step_begin_ns) const;
  void Count(const RequestEnd& end);
  void CheckIdle();
  void ReadAndRecord();
  void Wait();
  bool faults() const { return clock_.NowNs() < scenario_.faults_end_ns; }
  bool done() const;

  const Scenario& scenario_;
  VirtualClock clock_;
  Disk disk_;
  std::unique_ptr<Life> life_;  // null while the process is down
  int64_t up_again_ns_ = 0;
  int64_t steps_before_ = 0;
  bool device_failed_ = false;
  size_t next_call_ = 0;
  size_t next_life_fault_ = 0;
  size_t next_jump_ = 0;
  size_t next_card_ = 0;
  bool idle_ = false;  // the last step found nothing to do
  Outcome outcome_;
};

}  // namespace tuppence::simulation
