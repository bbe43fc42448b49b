#include "service/planner/replica_search.h"

#include <algorithm>

namespace tuppence {

ReplicaSearch::Bounds ReplicaSearch::Known() const {
  Bounds bounds = {first_ - 1, last_ + 1};
  for (const auto& [replicas, meets_goals] : tried_) {
    (meets_goals ? bounds.fewest : bounds.too_few) = replicas;
    if (meets_goals) break;
  }
  return bounds;
}

std::vector<int32_t> ReplicaSearch::Next() const {
  if (tried_.empty()) {
    // The second is mostly wanted whether the first meets the goals or not, and keeps other cores
    // busy.
    if (guess_ == last_) return {guess_};
    return {guess_, guess_ + 1};
  }
  const auto [too_few, fewest] = Known();
  if (too_few + 1 < fewest) {
    if (fewest > last_) return {last_};  // a goal that no number meets is soon known
    if (fewest == guess_) return {guess_ - 1};
    return {fewest - (fewest - too_few) / 2};  // rounded up: more replicas, less work for each
  }
  const int32_t beyond = fewest + 1;
  if (beyond > last_ || tried(beyond)) return {};
  return {beyond};
}

void ReplicaSearch::StartAgain() {
  guess_ = std::min(Known().fewest, last_);
  tried_.clear();
}

}  // namespace tuppence
