#include "service/tenant_totals.h"

#include <algorithm>
#include <tuple>

#include "model/check.h"

namespace tuppence {

void TenantSums::Add(const TenantSums& other) {
  prefill_ns += other.prefill_ns;
  decode_ns += other.decode_ns;
  prefill_nanousd += other.prefill_nanousd;
  decode_nanousd += other.decode_nanousd;
  prompt_tokens += other.prompt_tokens;
  cached_tokens += other.cached_tokens;
  completion_tokens += other.completion_tokens;
}

TenantTotals::TenantTotals(size_t labels_max, size_t watched_max)
    : labels_max_(labels_max), watched_max_(watched_max) {
  CHECK_GT(labels_max, 0u);
}

void TenantTotals::Add(const std::string& tenant, const TenantSums& sums) {
  if (tenant == kOtherTenants) {
    other_.Add(sums);
    return;
  }
  auto found = labelled_.find(tenant);
  if (found == labelled_.end() && labelled_.size() < labels_max_) {
    found = labelled_.emplace(tenant, Label()).first;
  }
  if (found != labelled_.end()) {
    found->second.sums.Add(sums);
    found->second.spent_ns += sums.machine_ns();
    return;
  }
  other_.Add(sums);
  // Names that callers make up end here: once the list is full it starts afresh.
  if (watched_ns_.size() >= watched_max_ && !watched_ns_.contains(tenant)) watched_ns_.clear();
  watched_ns_[tenant] += sums.machine_ns();
  MakeRoomFor(tenant);
}

// A tenant that has spent twice as much without a label as the smallest with one takes its place.
// What either has spent so far stays, or goes, with the others: a counter that fell would look like
// a restart, and one that took it along would count it twice.
void TenantTotals::MakeRoomFor(const std::string& tenant) {
  const auto smallest =
      std::min_element(labelled_.begin(), labelled_.end(), [](const auto& a, const auto& b) {
        return std::tie(a.second.spent_ns, a.first) < std::tie(b.second.spent_ns, b.first);
      });
  const int64_t spent_ns = watched_ns_[tenant];
  if (spent_ns / 2 <= smallest->second.spent_ns) return;
  other_.Add(smallest->second.sums);
  watched_ns_.erase(tenant);
  watched_ns_[smallest->first] = smallest->second.spent_ns;
  labelled_.erase(smallest);
  labelled_[tenant].spent_ns = spent_ns;
}

std::vector<std::pair<std::string, TenantSums>> TenantTotals::Labelled() const {
  std::vector<std::pair<std::string, TenantSums>> all;
  for (const auto& [tenant, label] : labelled_) all.emplace_back(tenant, label.sums);
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  all.emplace_back(kOtherTenants, other_);
  return all;
}

}  // namespace tuppence
