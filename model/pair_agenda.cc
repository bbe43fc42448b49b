// See pair_agenda.h.
#include "model/pair_agenda.h"

#include "model/check.h"

namespace tuppence {

void PairAgenda::Reset(int32_t ranks) {
  CHECK(ranks_.empty() && stragglers_.empty());
  queues_.resize(ranks);
  nodes_.clear();
  free_ = kNone;
}

int32_t PairAgenda::NewNode(const AgendaPair& pair) {
  if (free_ == kNone) {
    nodes_.push_back({pair, kNone});
    return static_cast<int32_t>(nodes_.size()) - 1;
  }
  const int32_t node = free_;
  free_ = nodes_[node].next;
  nodes_[node] = {pair, kNone};
  return node;
}

void PairAgenda::Push(const AgendaPair& pair) {
  Queue& queue = queues_[pair.rank];
  if (queue.head == kNone) {
    queue.head = queue.tail = NewNode(pair);
    ranks_.push(pair.rank);
  } else if (nodes_[queue.tail].pair.left <= pair.left) {
    const int32_t node = NewNode(pair);
    nodes_[queue.tail].next = node;
    queue.tail = node;
  } else {
    stragglers_.push(pair);
  }
}

bool PairAgenda::Pop(AgendaPair* pair) {
  if (ranks_.empty()) {
    if (stragglers_.empty()) return false;
    *pair = stragglers_.top();
    stragglers_.pop();
    return true;
  }
  Queue& queue = queues_[ranks_.top()];
  const int32_t node = queue.head;
  if (!stragglers_.empty() && ComesLater()(nodes_[node].pair, stragglers_.top())) {
    *pair = stragglers_.top();
    stragglers_.pop();
    return true;
  }
  *pair = nodes_[node].pair;
  queue.head = nodes_[node].next;
  if (queue.head == kNone) ranks_.pop();
  nodes_[node].next = free_;
  free_ = node;
  return true;
}

}  // namespace tuppence
