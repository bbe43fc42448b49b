// CostLedger: every nanosecond since process start, booked to exactly one account; and each step's
// measured time divided among the requests that shared it, in integers that add up.
// Used by the engine. Thread: engine only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "scheduler/period.h"
#include "scheduler/rate_card.h"
#include "scheduler/request.h"
#include "scheduler/step_cost_model.h"

namespace tuppence {

// What one request has been charged so far.
struct Charges {
  int64_t machine_ns = 0;
  int64_t shared_ns = 0;
  int64_t own_ns = 0;
  int64_t prefill_ns = 0;
  int64_t decode_ns = 0;
  double carry_ns = 0;  // what it should have been charged beyond that: a fraction of ns
};

// One player of a step. Recomputation after preemption is one player of its own, without charges.
struct StepPlayer {
  Charges* charges = nullptr;  // null: the overhead account
  int64_t order = 0;           // settles ties: the request's arrival
  StepWork prefill;
  StepWork decode;
};

class CostLedger {
 public:
  enum class Account : uint8_t { kStartup, kIdle, kOverhead, kDrain };

  // players_max: so many players a step has at most; a step allocates nothing.
  CostLedger(int64_t start_ns, const RateCard& rate_card, const StepCostCoefficients& coefficients,
             int32_t players_max);

  // Books the time since the last cut to the account. Requires: now_ns is not before the last cut.
  void Cut(Account account, int64_t now_ns);
  // Divides the time since the last cut, a step's, among its players. Requires: at least one.
  void ChargeStep(std::span<const StepPlayer> players, int64_t now_ns);

  Cost CostOf(const Charges& charges) const;
  const AccountTotals& totals() const { return totals_; }
  int64_t last_cut_ns() const { return last_cut_ns_; }

 private:
  // Whole nanoseconds for each player that add up to total_ns: the floor of what each should pay,
  // its carry included, then one more for those with the largest remainders.
  void Apportion(int64_t total_ns, std::span<const StepPlayer> players);
  void Book(const StepPlayer& player, size_t index);

  const RateCard rate_card_;
  const StepCostModel model_;
  AccountTotals totals_;
  int64_t last_cut_ns_;
  double overhead_carry_ns_ = 0;

  // Per player of the step at hand.
  std::vector<StepWork> works_;
  std::vector<StepShare> shares_;
  std::vector<double> due_ns_;
  std::vector<int64_t> charge_ns_;
  std::vector<int32_t> ranking_;
};

}  // namespace tuppence
