// FairQueue: who waits to start, in which order, and how much machine time each tenant has had.
// Used by the scheduler alone. Pure: time comes in as an argument.
//
// A lane is one tenant's requests of one class. Who lost their place comes back first; then the
// shortest prompt starts, until the oldest has waited request_wait_max_ns and comes before it: a
// question waits for no pile of documents, and a document not for ever. Lanes of a class share the
// machine in proportion to their tenants' weights: each has a virtual clock, the machine time that
// its requests were charged over its weight, and the lane whose clock is behind starts next (VTC:
// Sheng et al., OSDI 2024, arXiv 2401.00588, in the currency we bill in). A lane that comes back
// after a pause is lifted to its class's virtual time, the clock of the lane that started last, so
// that nobody saves up time, and one that leaves ahead of the others is remembered.
//
// The bound: while two lanes of a class both wait, their clocks differ by at most what the requests
// that one of them runs at a time may be charged in all, over its weight. For let f be ahead of g.
// When f last started a request its clock was not ahead of g's or, if g came later, not ahead of
// the virtual time that g was lifted to; since then f was charged for what it ran at that moment,
// and g's clock did not go back.
//
// Classes come in order, interactive before standard before batch. But one in which somebody waits
// and nobody started for class_wait_max_ns is overdue: its first comes before all others, once, and
// keeps the place it gets.
// Within a class no lane is passed over for ever by the bound above, and within a lane nobody by
// request_wait_max_ns; so nothing waits for ever.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "scheduler/length_sums.h"
#include "scheduler/priority_class.h"
#include "scheduler/sequence.h"

namespace tuppence {

constexpr int64_t kWeightOne = 1000;  // a tenant's weight is counted in thousandths

// For each class; the first never has to wait for another.
using ClassWaits = std::array<int64_t, kPriorityClasses>;
inline constexpr ClassWaits kClassWaitMaxNs = {0, 10'000'000'000, 60'000'000'000};
inline constexpr int64_t kRequestWaitMaxNs = 10'000'000'000;

struct FairLane {
  int64_t tenant = 0;
  PriorityClass priority_class = PriorityClass::kStandard;
  int64_t weight_milli = kWeightOne;
  int64_t clock_ns = 0;
  int64_t waiting_tokens = 0;  // positions to compute before all of `waiting` can go on
  int32_t groups = 0;          // waiting or running
  int32_t place = -1;          // among the lanes that wait; -1: not there
  std::map<int64_t, SequenceGroup*> waiting;  // by arrival
  std::map<int64_t, SequenceGroup*> lost;     // of those, who had started and lost their place
  std::map<std::pair<int64_t, int64_t>, SequenceGroup*> shortest;  // the others, by tokens, arrival
  LengthSums young;  // of `shortest`, from young_from on: whoever had not aged when last asked
  int64_t young_from = 0;  // an arrival
};

// Where somebody stands in line. Smaller comes first.
struct FairOrder {
  int32_t rank = 0;  // class; below all classes: overdue
  int64_t clock_ns = 0;
  int64_t tokens_left = 0;  // of the prompt: the short ones first
  int64_t arrival = 0;
  auto operator<=>(const FairOrder&) const = default;
};

class FairQueue {
 public:
  FairQueue(const ClassWaits& class_wait_max_ns, int64_t request_wait_max_ns)
      : class_wait_max_ns_(class_wait_max_ns), request_wait_max_ns_(request_wait_max_ns) {}

  // A request comes, waiting; starts; waits again, having lost its place; goes, in any state.
  void Enter(SequenceGroup* group, int64_t now_ns);
  void Start(SequenceGroup* group, int64_t now_ns);
  void Requeue(SequenceGroup* group, int64_t now_ns);
  void Leave(SequenceGroup* group);

  // Machine time that one of the lane's requests was charged.
  static void Charge(FairLane* lane, int64_t machine_ns) {
    lane->clock_ns += machine_ns * kWeightOne / lane->weight_milli;
  }

  // Its place in line, waiting or running.
  FairOrder OrderOf(const SequenceGroup& group, int64_t now_ns) const;
  // Lanes in which somebody waits, in no order of meaning.
  const std::vector<FairLane*>& lanes_waiting() const { return lanes_waiting_; }
  // The first of the lane whose reader takes what it gets; null if there is none.
  SequenceGroup* Next(const FairLane& lane, int64_t now_ns) const;
  // What starts before somebody who has just come, as far as one can tell: higher classes whole,
  // who comes first in its own lane, and of its class's other lanes as much as that, by weight.
  // Lower classes wait.
  // Cost: a look at each lane in which somebody waits, and at no more sums of its own lane than a
  // prompt's length has bits, however many requests wait in them; and once at each request of its
  // lane that has aged. Requires: nobody of its lane came later.
  QueueAhead AheadOf(const SequenceGroup& newcomer, int64_t now_ns) const;
  // Everybody who waits.
  QueueAhead all() const { return {.requests = waiting_, .tokens = waiting_tokens_}; }
  // The first in line; null if nobody can start.
  SequenceGroup* First(int64_t now_ns) const;

  int64_t lanes() const { return static_cast<int64_t>(lanes_.size()); }  // remembered ones too
  int32_t waiting() const { return waiting_; }
  int32_t waiting(PriorityClass priority_class) const { return ClassOf(priority_class).waiting; }

 private:
  struct Class {
    int32_t waiting = 0;
    int64_t waits_since_ns = 0;  // somebody waits and nobody started
    int64_t virtual_ns = 0;      // clock of the lane that started last
  };
  Class& ClassOf(PriorityClass c) { return classes_[static_cast<int>(c)]; }
  const Class& ClassOf(PriorityClass c) const { return classes_[static_cast<int>(c)]; }
  bool Overdue(PriorityClass priority_class, int64_t now_ns) const;
  bool HasAged(const SequenceGroup& group, int64_t now_ns) const {
    return now_ns - group.waits_since_ns >= request_wait_max_ns_;
  }
  QueueAhead AheadInLane(const SequenceGroup& newcomer, int64_t now_ns) const;
  int64_t TakeAgedFromYoung(FairLane* lane, int64_t now_ns) const;
  void Wait(SequenceGroup* group, int64_t now_ns);
  void StopWaiting(SequenceGroup* group);
  void Forget(FairLane* lane);
  void ForgetThoseBehind();

  const ClassWaits class_wait_max_ns_;
  const int64_t request_wait_max_ns_;
  std::array<Class, kPriorityClasses> classes_;
  absl::flat_hash_map<std::pair<int64_t, PriorityClass>, std::unique_ptr<FairLane>> lanes_;
  std::vector<FairLane*> lanes_waiting_;
  int32_t waiting_ = 0;
  int64_t waiting_tokens_ = 0;
  int32_t remembered_ = 0;  // lanes that nobody is in
};

}  // namespace tuppence
