#include "tests/scheduler/simulation/deadline_watch.h"

#include <algorithm>
#include <map>
#include <utility>

#include "tests/scheduler/simulation/simulated_device.h"

namespace tuppence::simulation {

DeadlineWatch::DeadlineWatch(const Scenario& scenario, const Engine& engine, int64_t now_ns)
    : scenario_(scenario),
      now_ns_(now_ns),
      costs_(engine.ledger().model().coefficients()),
      estimate_(engine.start_estimate()),
      places_free_(engine.scheduler().places_free()) {
  for (const FairLane* lane : engine.scheduler().queue().lanes_waiting()) {
    for (const auto& [arrival, group] : lane->waiting) {
      const int64_t waits_ns = now_ns - group->waits_since_ns;
      waiting_.push_back(
          {.tenant = TenantNumber(static_cast<const ActiveRequest*>(group)->request.tenant),
           .priority_class = group->priority_class,
           .prompt_tokens = group->prompt_tokens(),
           .tokens_left = group->tokens_left(),
           .goes_first =
               group->preemptions > 0 || waits_ns >= scenario.options.request_wait_max_ns});
    }
  }
}

void DeadlineWatch::Judge(std::span<const std::unique_ptr<Call>> newcomers) {
  for (const std::unique_ptr<Call>& call : newcomers) {
    const CallPlan& plan = call->plan();
    const int64_t prompt_tokens = static_cast<int64_t>(plan.prompt.size());
    const Waiting newcomer = {.tenant = plan.tenant,
                              .priority_class = plan.priority_class,
                              .prompt_tokens = prompt_tokens,
                              .tokens_left = prompt_tokens * plan.sampling.choices,
                              .goes_first = scenario_.options.request_wait_max_ns == 0};
    const bool late = IsLate(newcomer, plan, call->deadline_ns());
    call->set_late(late);
    if (late) continue;
    // It may have ended at once for its cost, so that those behind it are judged without it.
    if (plan.max_cost_nanousd.has_value()) return;
    waiting_.push_back(newcomer);
  }
}

bool DeadlineWatch::IsLate(const Waiting& newcomer, const CallPlan& plan,
                           int64_t deadline_ns) const {
  if (deadline_ns == kNever) return false;
  const QueueAhead ahead = AheadOf(newcomer);
  const int64_t places_free = places_free_ - plan.sampling.choices + 1;
  if (ahead.requests == 0 && places_free > 0) return false;
  return now_ns_ + estimate_.FirstTokenNs(ahead, newcomer.prompt_tokens, places_free, costs_) >
         deadline_ns;
}

// Higher classes whole; who comes first in its own lane; of its class's other lanes as much as
// that and itself, by weight.
QueueAhead DeadlineWatch::AheadOf(const Waiting& newcomer) const {
  QueueAhead higher;
  QueueAhead own;
  std::map<int32_t, QueueAhead> others;  // of its class, by tenant
  for (const Waiting& waits : waiting_) {
    if (waits.priority_class > newcomer.priority_class) continue;
    const bool same_class = waits.priority_class == newcomer.priority_class;
    const bool same_lane = same_class && waits.tenant == newcomer.tenant;
    if (same_lane && !waits.goes_first && waits.prompt_tokens > newcomer.prompt_tokens) continue;
    QueueAhead& sums = same_lane ? own : same_class ? others[waits.tenant] : higher;
    ++sums.requests;
    sums.tokens += waits.tokens_left;
  }
  QueueAhead ahead = {.requests = higher.requests + own.requests,
                      .tokens = higher.tokens + own.tokens};
  for (const auto& [tenant, theirs] : others) {
    const auto by_weight = [&, tenant = tenant](int64_t turns) {
      return turns * scenario_.weights_milli[tenant] / scenario_.weights_milli[newcomer.tenant];
    };
    ahead.requests += std::min(theirs.requests, by_weight(own.requests + 1));
    ahead.tokens += std::min(theirs.tokens, by_weight(own.tokens + newcomer.tokens_left));
  }
  return ahead;
}

}  // namespace tuppence::simulation
