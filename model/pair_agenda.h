// The pairs of a text that may still be merged, best first: by rank (0 is best), then by place, the
// leftmost first. Used by BytePairMerge only.
//
// A plain binary heap takes 20 levels of cache misses per pair for a megabyte of one letter. Pairs
// of one rank are nearly always found from left to right, so each rank has a queue that stays
// sorted by itself, and only what arrives out of order goes to a heap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <queue>
#include <vector>

#include "model/check.h"
#include "model/huge_pages.h"

namespace tuppence {

struct AgendaPair {
  int32_t left;  // places of the two symbols
  int32_t right;
  int32_t merged;  // the symbol that they become
};

class PairAgenda {
 public:
  // Ready for ranks below `ranks` and about `pairs` pairs at a time. Requires: empty.
  void Reset(int32_t ranks, size_t pairs) {
    CHECK(ranks_.empty() && stragglers_.empty());
    queues_.resize(ranks);
    nodes_.clear();
    if (pairs > nodes_.capacity()) {
      nodes_.reserve(pairs);
      WishForHugePages(nodes_.data(), pairs * sizeof(Node));
    }
    free_ = kNone;
  }

  void Push(int32_t rank, const AgendaPair& pair) {
    Queue& queue = queues_[rank];
    if (queue.head == kNone) {
      queue.head = queue.tail = NewNode(pair);
      ranks_.push(rank);
    } else if (nodes_[queue.tail].pair.left <= pair.left) {
      const int32_t node = NewNode(pair);
      nodes_[queue.tail].next = node;
      queue.tail = node;
    } else {
      stragglers_.push({pair, rank});
    }
  }

  // Takes the best pair; false if there is none.
  bool Pop(AgendaPair* pair) {
    if (ranks_.empty()) return PopStraggler(pair);
    const int32_t rank = ranks_.top();
    Queue& queue = queues_[rank];
    const int32_t node = queue.head;
    *pair = nodes_[node].pair;
    if (!stragglers_.empty() && stragglers_.top() < Straggler{*pair, rank}) {
      return PopStraggler(pair);
    }
    queue.head = nodes_[node].next;
    if (queue.head == kNone) ranks_.pop();
    nodes_[node].next = free_;
    free_ = node;
    return true;
  }

 private:
  static constexpr int32_t kNone = -1;
  struct Node {
    AgendaPair pair;
    int32_t next;
  };
  struct Queue {
    int32_t head = kNone;
    int32_t tail = kNone;
  };
  struct Straggler {
    AgendaPair pair;
    int32_t rank;
    bool operator<(const Straggler& other) const {
      return rank != other.rank ? rank < other.rank : pair.left < other.pair.left;
    }
    bool operator>(const Straggler& other) const { return other < *this; }
  };
  template <typename T>
  using Lowest = std::priority_queue<T, std::vector<T>, std::greater<T>>;

  int32_t NewNode(const AgendaPair& pair) {
    if (free_ == kNone) {
      nodes_.push_back({pair, kNone});
      return static_cast<int32_t>(nodes_.size()) - 1;
    }
    const int32_t node = free_;
    free_ = nodes_[node].next;
    nodes_[node] = {pair, kNone};
    return node;
  }

  bool PopStraggler(AgendaPair* pair) {
    if (stragglers_.empty()) return false;
    *pair = stragglers_.top().pair;
    stragglers_.pop();
    return true;
  }

  std::vector<Queue> queues_;  // [ranks]
  std::vector<Node> nodes_;
  int32_t free_ = kNone;   // nodes to use again
  Lowest<int32_t> ranks_;  // whose queue is not empty, each once
  Lowest<Straggler> stragglers_;
};

}  // namespace tuppence
