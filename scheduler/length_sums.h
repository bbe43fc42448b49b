// LengthSums: of requests that wait, how many have a prompt of at most so many tokens, and how much
// they have to compute in all, without a look at each. Used by the fair queue, one for each lane.
//
// A Fenwick tree (Fenwick 1994, A New Data Structure for Cumulative Frequency Tables): node i holds
// the sums of the lengths below i, from i less its lowest bit on. Only nodes of lengths that wait
// exist. Add and UpTo look at no more nodes than the longest length so far has bits, and one.
#pragma once

#include <cstdint>

#include "absl/container/flat_hash_map.h"

namespace tuppence {

// What waits before somebody.
struct QueueAhead {
  int64_t requests = 0;
  int64_t tokens = 0;     // of their prompts, and what those who lost their place had
  int64_t looked_at = 0;  // lanes, sums and requests, to find that out
};

class LengthSums {
 public:
  // A request comes, with so many tokens to compute. Requires: length >= 0.
  void Add(int64_t length, int64_t tokens) { Change(length, 1, tokens); }
  // One that came goes.
  void Remove(int64_t length, int64_t tokens) { Change(length, -1, -tokens); }

  QueueAhead UpTo(int64_t length) const;
  int64_t requests() const { return all_.requests; }
  int64_t tokens() const { return all_.tokens; }

 private:
  struct Sums {
    int64_t requests = 0;
    int64_t tokens = 0;
  };

  void Change(int64_t length, int64_t requests, int64_t tokens);
  void AddToNode(int64_t index, int64_t requests, int64_t tokens);

  Sums all_;
  int64_t node_max_ = 1;  // a power of two; every length so far was below it
  absl::flat_hash_map<int64_t, Sums> nodes_;
};

}  // namespace tuppence
