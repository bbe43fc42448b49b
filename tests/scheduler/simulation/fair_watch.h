// FairWatch: who starts before whom and who loses their place, held in each step against what
// scheduler/fair_queue.h and scheduler/scheduler.h promise, with clocks and waits of its own where
// the queue's could be wrong.
//
//   clocks    a lane's clock moves by what its requests were charged, over the weight
//   the gap   nobody who waits is behind the clock with which another of the class last started, so
//             that two clocks differ by at most what the one ahead was charged since
//   classes   whoever starts while a higher class waits is overdue, and nobody starts past one that
//             is: no wait beyond its limit
//   lanes     who lost their place comes first, then the shortest, unless the oldest has aged
//   the pool  the lowest class loses its place first, in it whoever has least to compute again
//   batch     gives way to whoever is first in line above it and wants a place
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <utility>

#include "scheduler/engine.h"
#include "scheduler/fair_queue.h"
#include "scheduler/step_plan.h"

namespace tuppence::simulation {

class FairWatch {
 public:
  explicit FairWatch(const EngineOptions& options);

  // A step was planned, at now_ns, and goes to the device.
  void StepPlanned(const Scheduler& scheduler, const BlockPool& pool, int64_t now_ns);
  // The engine is through with a step, or found nothing to do.
  void StepEnded(const Scheduler& scheduler, int64_t now_ns);
  // Of the step at hand: somebody lost their place; somebody got one.
  bool somebody_lost() const { return lost_; }
  bool somebody_started() const;

 private:
  using LaneKey = std::pair<int64_t, PriorityClass>;  // tenant

  // A request that ran at the end of the step before.
  struct Running {
    PriorityClass priority_class = PriorityClass::kStandard;
    int32_t preemptions = 0;
    int64_t recompute_tokens = 0;
    bool may_lose = false;  // its place, and would give blocks back
    bool stalled = false;
    bool keeps_place = false;
  };
  struct Class {
    bool waits = false;
    int64_t waits_since_ns = 0;  // somebody waits and nobody started
    int64_t started_clock_ns = 0;
    // In the step at hand.
    bool overdue = false;
    bool may_start = false;  // somebody still waits who could start
    int32_t started = 0;
  };
  struct LaneCharge {
    int64_t clock_ns = 0;
    std::map<int64_t, int64_t> machine_ns;  // by arrival, of those who run
  };

  void NoteOverdue(const FairQueue& queue, int64_t now_ns);
  void NoteWaits(const FairQueue& queue, int64_t now_ns);
  void NoteStarts(const Scheduler& scheduler, int64_t now_ns);
  void CheckClasses() const;
  void CheckLanes(const Scheduler& scheduler, int64_t now_ns) const;
  bool Aged(int64_t arrival, int64_t now_ns) const;
  void CheckGap(const FairQueue& queue);
  void CheckLostPlaces(const Scheduler& scheduler) const;
  bool BatchKeepsFirstOut(const Scheduler& scheduler, const BlockPool& pool, int64_t now_ns) const;
  void NoteCharges(const Scheduler& scheduler);
  void CheckCharges(const Scheduler& scheduler) const;
  Class& ClassOf(PriorityClass c) { return classes_[static_cast<int>(c)]; }

  const ClassWaits class_wait_max_ns_;
  const int64_t request_wait_max_ns_;
  const int32_t block_tokens_;
  std::array<Class, kPriorityClasses> classes_;
  std::map<int64_t, Running> running_;         // by arrival
  std::map<int64_t, int64_t> waits_since_ns_;  // by arrival, of who has come and not started
  std::set<LaneKey> was_unable_;  // lanes that waited and could not start, their readers being slow
  bool planned_ = false;          // the step at hand goes to the device
  bool lost_ = false;             // somebody lost their place in the step at hand
  int32_t kept_out_steps_ = 0;    // in which batch work kept the first in line out
  std::map<LaneKey, LaneCharge> charges_;
};

}  // namespace tuppence::simulation
