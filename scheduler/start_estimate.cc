#include "scheduler/start_estimate.h"

#include <algorithm>

namespace tuppence {

void StartEstimate::AddEnd(int64_t now_ns) {
  if (last_end_ns_ >= 0) {
    const int64_t interval_ns = now_ns - last_end_ns_;
    end_interval_ns_ +=
        end_interval_ns_ == 0 ? interval_ns : (interval_ns - end_interval_ns_) / kRemembered;
  }
  last_end_ns_ = now_ns;
}

int64_t StartEstimate::FirstTokenNs(const QueueAhead& ahead, int64_t prompt_tokens,
                                    int64_t places_free, const StepCostCoefficients& costs) const {
  const double prompts_ns = costs.token_ns * static_cast<double>(ahead.tokens);
  const double places_ns =
      static_cast<double>(std::max<int64_t>(0, ahead.requests + 1 - places_free)) *
      static_cast<double>(end_interval_ns_);
  const double own_ns = costs.token_ns * static_cast<double>(prompt_tokens);
  return static_cast<int64_t>(std::max(prompts_ns, places_ns) + own_ns);
}

}  // namespace tuppence
