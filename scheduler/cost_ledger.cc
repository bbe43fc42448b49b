#include "scheduler/cost_ledger.h"

#include <algorithm>
#include <cmath>

#include "model/check.h"

namespace tuppence {

CostLedger::CostLedger(int64_t start_ns, const RateCard& rate_card,
                       const StepCostCoefficients& coefficients, int32_t players_max)
    : rate_card_(rate_card), model_(coefficients), last_cut_ns_(start_ns) {
  works_.reserve(players_max);
  shares_.reserve(players_max);
  due_ns_.reserve(players_max);
  charge_ns_.reserve(players_max);
  ranking_.reserve(players_max);
}

void CostLedger::Cut(Account account, int64_t now_ns) {
  CHECK_GE(now_ns, last_cut_ns_);
  const int64_t elapsed_ns = now_ns - last_cut_ns_;
  last_cut_ns_ = now_ns;
  switch (account) {
    case Account::kStartup:
      totals_.startup_ns += elapsed_ns;
      return;
    case Account::kIdle:
      totals_.idle_ns += elapsed_ns;
      return;
    case Account::kOverhead:
      totals_.overhead_ns += elapsed_ns;
      return;
    case Account::kDrain:
      totals_.drain_ns += elapsed_ns;
      return;
  }
}

void CostLedger::ChargeStep(std::span<const StepPlayer> players, int64_t now_ns) {
  CHECK(!players.empty());
  CHECK_GE(now_ns, last_cut_ns_);
  const int64_t total_ns = now_ns - last_cut_ns_;
  last_cut_ns_ = now_ns;
  works_.clear();
  for (const StepPlayer& player : players) {
    works_.push_back(player.prefill);
    works_.back().Add(player.decode);
  }
  shares_.resize(players.size());
  model_.Divide(works_, shares_);
  Apportion(total_ns, players);
  for (size_t i = 0; i < players.size(); ++i) Book(players[i], i);
}

void CostLedger::Apportion(int64_t total_ns, std::span<const StepPlayer> players) {
  const size_t count = players.size();
  double modelled_ns = 0;
  for (const StepShare& share : shares_) modelled_ns += share.shared_ns + share.own_ns;
  // A model of all zeros divides equally.
  const double scale = modelled_ns > 0 ? static_cast<double>(total_ns) / modelled_ns : 0;
  const double equal_ns =
      modelled_ns > 0 ? 0 : static_cast<double>(total_ns) / static_cast<double>(count);
  due_ns_.resize(count);
  charge_ns_.resize(count);
  ranking_.resize(count);
  int64_t left_ns = total_ns;
  for (size_t i = 0; i < count; ++i) {
    const double carry_ns =
        players[i].charges != nullptr ? players[i].charges->carry_ns : overhead_carry_ns_;
    due_ns_[i] = (shares_[i].shared_ns + shares_[i].own_ns) * scale + equal_ns + carry_ns;
    charge_ns_[i] = std::max<int64_t>(0, static_cast<int64_t>(std::floor(due_ns_[i])));
    left_ns -= charge_ns_[i];
    ranking_[i] = static_cast<int32_t>(i);
  }
  // Whoever is owed most by the charge so far pays the next nanosecond; of equals the first to
  // come.
  const auto owes_more = [&](int32_t a, int32_t b) {
    const double owed_a = due_ns_[a] - static_cast<double>(charge_ns_[a]);
    const double owed_b = due_ns_[b] - static_cast<double>(charge_ns_[b]);
    return owed_a != owed_b ? owed_a > owed_b : players[a].order < players[b].order;
  };
  // One round as a rule: carries are fractions. The rest takes a nanosecond at a time.
  while (left_ns > 0) {
    const size_t payers = std::min<size_t>(left_ns, count);
    if (payers < count) {
      std::nth_element(ranking_.begin(), ranking_.begin() + payers, ranking_.end(), owes_more);
    }
    for (size_t i = 0; i < payers; ++i) ++charge_ns_[ranking_[i]];
    left_ns -= static_cast<int64_t>(payers);
  }
  for (; left_ns < 0; ++left_ns) {
    int32_t least = -1;
    for (size_t i = 0; i < count; ++i) {
      if (charge_ns_[i] > 0 && (least < 0 || owes_more(least, static_cast<int32_t>(i)))) {
        least = static_cast<int32_t>(i);
      }
    }
    --charge_ns_[least];
  }
}

void CostLedger::Book(const StepPlayer& player, size_t index) {
  const StepShare& share = shares_[index];
  const int64_t charge_ns = charge_ns_[index];
  const double carry_ns = due_ns_[index] - static_cast<double>(charge_ns);
  if (player.charges == nullptr) {
    totals_.overhead_ns += charge_ns;
    overhead_carry_ns_ = carry_ns;
    return;
  }
  totals_.request_ns += charge_ns;
  Charges& charges = *player.charges;
  charges.carry_ns = carry_ns;
  charges.machine_ns += charge_ns;
  const double modelled_ns = share.shared_ns + share.own_ns;
  const double shared_part = modelled_ns > 0 ? share.shared_ns / modelled_ns : 1;
  const int64_t shared_ns = std::llround(static_cast<double>(charge_ns) * shared_part);
  charges.shared_ns += shared_ns;
  charges.own_ns += charge_ns - shared_ns;
  const double prefill = model_.OwnNs(player.prefill);
  const double decode = model_.OwnNs(player.decode);
  const double prefill_part = prefill + decode > 0 ? prefill / (prefill + decode) : 1;
  const int64_t prefill_ns = std::llround(static_cast<double>(charge_ns) * prefill_part);
  charges.prefill_ns += prefill_ns;
  charges.decode_ns += charge_ns - prefill_ns;
}

Cost CostLedger::CostOf(const Charges& charges) const {
  Cost cost;
  cost.machine_ns = charges.machine_ns;
  cost.shared_ns = charges.shared_ns;
  cost.own_ns = charges.own_ns;
  cost.prefill_ns = charges.prefill_ns;
  cost.decode_ns = charges.decode_ns;
  cost.has_rate = rate_card_.known();
  if (!cost.has_rate) return cost;
  cost.cost_nanousd = NanoUsd(rate_card_, charges.machine_ns);
  cost.rate_card_id = rate_card_.id;
  return cost;
}

}  // namespace tuppence
