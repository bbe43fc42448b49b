// CostLedger: every nanosecond since process start, booked to exactly one account; each step's
// measured time divided among the requests that shared it, in integers that add up; and the periods
// that all of it falls into. Used by the engine. Thread: engine only.
//
// A period ends at a cut: after about a minute, at every quarter-hour of UTC, when the startup ends
// and when the rate card changes. Time that no step uses is cut at the quarter-hour itself; a step
// that runs across it belongs to the period it began in. Where the clock on the wall jumps, the
// period at hand ends.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "scheduler/period.h"
#include "scheduler/rate_card.h"
#include "scheduler/request.h"
#include "scheduler/step_cost_model.h"

namespace tuppence {

constexpr int64_t kQuarterHourNs = int64_t{900} * 1'000'000'000;

// A tenant's page of the period at hand. Lives while a request of the tenant does, or until the
// period closes.
struct TenantAccount {
  TenantCharges charges;
  int32_t requests = 0;  // open ones
};

// What one request has been charged so far.
struct Charges {
  int64_t machine_ns = 0;
  int64_t shared_ns = 0;
  int64_t own_ns = 0;
  int64_t prefill_ns = 0;
  int64_t decode_ns = 0;
  double carry_ns = 0;  // what it should have been charged beyond that: a fraction of ns

  int64_t unrecorded_ns = 0;        // of machine_ns, booked to the unrecorded account
  TenantAccount* tenant = nullptr;  // null in tests: then no tenant is charged
  // Time before the last change of the rate card, in money.
  int64_t settled_ns = 0;
  ExactMoney settled = 0;
  bool unpriced = false;  // some of it was used while no rate was known

  int64_t recorded_ns() const { return machine_ns - unrecorded_ns; }
};

// One player of a step. Recomputation after preemption is one player of its own, without charges.
struct StepPlayer {
  Charges* charges = nullptr;  // null: the overhead account
  int64_t order = 0;           // settles ties: the request's arrival
  StepWork prefill;
  StepWork decode;
};

// What became of a step's time.
struct StepCharge {
  int64_t step_ns = 0;
  double modelled_ns = 0;
  int64_t shared_ns = 0;  // of step_ns, for launch and weights
  StepWork work;          // of all players
};

// How a request ended, as far as the books care.
struct Closing {
  bool written_off = false;  // by our own fault, or made again: priced at nothing
  bool lost = false;         // its row cannot be stored
};

struct LedgerOptions {
  int64_t start_ns = 0;  // monotonic
  int64_t utc_start_ns = 0;
  RateCard rate_card = {};
  StepCostCoefficients coefficients = {};
  int32_t players_max = 1;  // of one step; a step allocates nothing
  int64_t period_ns = int64_t{60} * 1'000'000'000;
};

class CostLedger {
 public:
  enum class Account : uint8_t { kStartup, kIdle, kOverhead, kDrain };

  explicit CostLedger(const LedgerOptions& options);

  // Books the time since the last cut to the account, quarter-hour by quarter-hour.
  // Requires: now_ns is not before the last cut; utc_now_ns is the same moment on the wall.
  void Cut(Account account, int64_t now_ns, int64_t utc_now_ns);
  // Divides the time since the last cut, a step's, among its players. Requires: at least one.
  StepCharge ChargeStep(std::span<const StepPlayer> players, int64_t now_ns);
  // What each of the last step's players was charged.
  std::span<const int64_t> step_charges() const { return charge_ns_; }
  // Until it is set back, requests' time goes to the unrecorded account.
  void SetUnrecorded(bool unrecorded) { unrecorded_ = unrecorded; }

  // A request comes and goes. Its tenant's account is valid in between.
  void Open(const std::string& tenant, Charges* charges);
  void Close(const Charges& charges, const Closing& closing);

  // Closes the period if it is time, at the last cut, which is now.
  void ClosePeriodIfDue(int64_t utc_now_ns);
  // Closes it in any case, unless nothing happened in it.
  void ClosePeriod(int64_t utc_now_ns);
  // Periods closed since the last call, to the end of *periods; null drops them.
  void TakePeriods(std::vector<Period>* periods);
  // From now, the last cut, on. Requires: Settle was called for the charges of every open request.
  void SetRateCard(const RateCard& rate_card, int64_t utc_now_ns);
  void Settle(Charges* charges) const;

  // Between steps only.
  void SetCoefficients(const StepCostCoefficients& coefficients) {
    model_.set_coefficients(coefficients);
  }

  // What the request is told: each of its nanoseconds at the card it was used under, rounded once.
  Cost CostOf(const Charges& charges, bool written_off = false) const;
  const AccountTotals& totals() const { return totals_; }
  const RateCard& rate_card() const { return period_.rate_card; }
  const StepCostModel& model() const { return model_; }
  int64_t start_ns() const { return start_ns_; }
  int64_t last_cut_ns() const { return last_cut_ns_; }

 private:
  void BookTo(Account account, int64_t until_ns);
  // Whole nanoseconds for each player that add up to total_ns: the floor of what each should pay,
  // its carry included, then one more for those with the largest remainders.
  void Apportion(int64_t total_ns, std::span<const StepPlayer> players);
  void GiveRemainders(int64_t left_ns, std::span<const StepPlayer> players);
  void GiveToMostOwed(int64_t left_ns, std::span<const StepPlayer> players);
  void TakeFromLeastOwed(std::span<const StepPlayer> players);
  bool OwesMore(std::span<const StepPlayer> players, int32_t a, int32_t b) const;
  double OwedNs(size_t player) const {
    return due_ns_[player] - static_cast<double>(charge_ns_[player]);
  }
  int64_t Book(const StepPlayer& player, size_t index);

  StepCostModel model_;
  const int64_t start_ns_;
  const int64_t period_ns_;
  AccountTotals totals_;
  int64_t last_cut_ns_;
  double overhead_carry_ns_ = 0;
  bool unrecorded_ = false;

  Period period_;  // at hand: number, start and card
  AccountTotals period_begin_;
  std::vector<Period> closed_;
  absl::flat_hash_map<std::string, std::unique_ptr<TenantAccount>> tenants_;

  // Per player of the step at hand.
  std::vector<StepWork> works_;
  std::vector<StepShare> shares_;
  std::vector<double> due_ns_;
  std::vector<int64_t> charge_ns_;
  std::vector<int32_t> ranking_;
};

}  // namespace tuppence
