#include "scheduler/length_sums.h"

#include <algorithm>

#include "model/check.h"

namespace tuppence {

void LengthSums::Change(int64_t length, int64_t requests, int64_t tokens) {
  CHECK_GE(length, 0);
  const int64_t node = length + 1;
  while (node_max_ < node) {
    node_max_ *= 2;
    if (all_.requests > 0) nodes_[node_max_] = all_;
  }
  for (int64_t i = node; i <= node_max_; i += i & -i) AddToNode(i, requests, tokens);
  all_.requests += requests;
  all_.tokens += tokens;
}

void LengthSums::AddToNode(int64_t index, int64_t requests, int64_t tokens) {
  const auto node = nodes_.try_emplace(index).first;
  node->second.requests += requests;
  node->second.tokens += tokens;
  CHECK_GE(node->second.requests, 0);
  if (node->second.requests == 0) nodes_.erase(node);
}

QueueAhead LengthSums::UpTo(int64_t length) const {
  QueueAhead up_to;
  for (int64_t i = std::min(length + 1, node_max_); i > 0; i -= i & -i) {
    ++up_to.looked_at;
    const auto node = nodes_.find(i);
    if (node == nodes_.end()) continue;
    up_to.requests += node->second.requests;
    up_to.tokens += node->second.tokens;
  }
  return up_to;
}

}  // namespace tuppence
