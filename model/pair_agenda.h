// The pairs of a text that may still be merged, best first: by rank (0 is best), then by place, the
// leftmost first. Used by BytePairMerge only.
//
// A plain binary heap takes 20 levels of cache misses per pair for a megabyte of one letter. Pairs
// of one rank are nearly always found from left to right, so each rank has a queue that stays
// sorted by itself, and only what arrives out of order goes to a heap.
#pragma once

#include <cstdint>
#include <functional>
#include <queue>
#include <vector>

namespace tuppence {

struct AgendaPair {
  int32_t left;  // places of the two symbols
  int32_t right;
  int32_t merged;  // the symbol that they become
  int32_t rank;
};

class PairAgenda {
 public:
  // Ready for ranks below `ranks`. Requires: empty.
  void Reset(int32_t ranks);
  void Push(const AgendaPair& pair);
  // Takes the best pair; false if there is none.
  bool Pop(AgendaPair* pair);

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
  struct ComesLater {
    bool operator()(const AgendaPair& a, const AgendaPair& b) const {
      return a.rank != b.rank ? a.rank > b.rank : a.left > b.left;
    }
  };

  int32_t NewNode(const AgendaPair& pair);

  std::vector<Queue> queues_;  // [ranks]
  std::vector<Node> nodes_;
  int32_t free_ = kNone;  // nodes to use again
  // Ranks whose queue is not empty, each once.
  std::priority_queue<int32_t, std::vector<int32_t>, std::greater<int32_t>> ranks_;
  std::priority_queue<AgendaPair, std::vector<AgendaPair>, ComesLater> stragglers_;
};

}  // namespace tuppence
