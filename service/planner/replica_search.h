// ReplicaSearch: which numbers of replicas a plan tries on a machine, to find the fewest that meet
// the goals. Used by plan. Pure.
//
// Halving, for more replicas share the same calls: where some meet the goals, more of them do too.
// A first search, of which each try is a part of the work, begins in the middle; a second, of whole
// tries, where the first has ended, which mostly is right or off by one.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

namespace tuppence {

class ReplicaSearch {
 public:
  // Requires: 1 <= first <= guess <= last.
  ReplicaSearch(int32_t first, int32_t last, int32_t guess)
      : first_(first), last_(last), guess_(guess) {}

  // What to try next, together; nothing once the fewest are known, and what one more brings.
  std::vector<int32_t> Next() const;
  void Learn(int32_t replicas, bool meets_goals) { tried_[replicas] = meets_goals; }
  bool tried(int32_t replicas) const { return tried_.contains(replicas); }
  // Forgets what was tried, and begins at the fewest that met the goals or, if none did, the last.
  void StartAgain();

 private:
  // The fewest that met the goals, else one more than may be tried; and the most below that which
  // did not, else one less.
  struct Bounds {
    int32_t too_few;
    int32_t fewest;
  };
  Bounds Known() const;

  const int32_t first_;
  const int32_t last_;
  int32_t guess_;
  std::map<int32_t, bool> tried_;  // by replicas: met the goals
};

}  // namespace tuppence
