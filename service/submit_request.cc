#include "service/submit_request.h"

#include <algorithm>
#include <string>
#include <utility>

#include "scheduler/clock.h"
#include "scheduler/engine.h"
#include "scheduler/refusal.h"
#include "service/budgets.h"
#include "service/rpc_status.h"

namespace tuppence {
namespace {

absl::Status HoldBudget(const ServiceParts& parts, const Request& request) {
  BudgetHold hold;
  hold.rate_card = parts.engine->rate_card();
  if (!hold.rate_card.known()) {
    return RefusalStatus(absl::StatusCode::kFailedPrecondition,
                         "this tenant has a budget in USD, and no rate card is in force, so that "
                         "nobody knows what an answer costs; have the server given a rate card, or "
                         "the budget taken out of its tenants file",
                         Because(reason::kNoRateCard));
  }
  hold.request_id = request.id;
  hold.tenant = request.tenant;
  hold.nanousd =
      NanoUsd(hold.rate_card, parts.engine->AloneNs(static_cast<int64_t>(request.prompt.size()),
                                                    request.sampling)) +
      1;  // rounded up
  hold.nanousd = std::min(hold.nanousd, request.max_cost_nanousd.value_or(hold.nanousd));
  hold.held_ns = parts.clock->NowNs();
  hold.held_utc_ns = parts.clock->UtcNs();
  return parts.budgets->Hold(hold);
}

}  // namespace

absl::Status SubmitRequest(const ServiceParts& parts, Request request) {
  // What is made again costs nothing, and so holds nothing.
  if (parts.budgets == nullptr || !parts.budgets->Has(request.tenant) ||
      !request.replay_of.empty()) {
    return parts.engine->Submit(std::move(request));
  }
  if (absl::Status held = HoldBudget(parts, request); !held.ok()) return held;
  const std::string id = request.id;
  absl::Status submitted = parts.engine->Submit(std::move(request));
  if (!submitted.ok()) parts.budgets->Void(id);
  return submitted;
}

}  // namespace tuppence
