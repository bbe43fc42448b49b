#include "scheduler/cost_ledger.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "model/check.h"

namespace tuppence {
namespace {

// The sum of all shares. A sum of doubles would depend on their order, so integers are added, and
// their unit follows the largest share: in a fixed one the many small shares of a fast model were
// cut to nothing, and charges came to many times the step.
double SumOf(std::span<const StepShare> shares) {
  constexpr int kLargestBits = 46;  // leaves room for 2^17 shares
  constexpr double kNothingNs = 1e-100;
  double largest_ns = 0;
  for (const StepShare& share : shares) {
    largest_ns = std::max(largest_ns, share.shared_ns + share.own_ns);
  }
  if (largest_ns < kNothingNs) return 0;
  int exponent = 0;
  std::frexp(largest_ns, &exponent);
  const double units = std::ldexp(1.0, kLargestBits - exponent);
  int64_t sum = 0;
  for (const StepShare& share : shares) {
    sum += static_cast<int64_t>((share.shared_ns + share.own_ns) * units);
  }
  return static_cast<double>(sum) / units;
}

int64_t QuarterOf(int64_t utc_ns) {
  const int64_t quarter = utc_ns / kQuarterHourNs;
  return utc_ns < quarter * kQuarterHourNs ? quarter - 1 : quarter;
}

AccountTotals Since(const AccountTotals& begin, const AccountTotals& now) {
  return {.startup_ns = now.startup_ns - begin.startup_ns,
          .idle_ns = now.idle_ns - begin.idle_ns,
          .request_ns = now.request_ns - begin.request_ns,
          .overhead_ns = now.overhead_ns - begin.overhead_ns,
          .drain_ns = now.drain_ns - begin.drain_ns,
          .unrecorded_ns = now.unrecorded_ns - begin.unrecorded_ns};
}

// The part of charge_ns that is `some` of `all`; all of it where all is nothing.
int64_t PartOf(int64_t charge_ns, double some, double all) {
  if (some >= all) return charge_ns;
  return static_cast<int64_t>(static_cast<double>(charge_ns) * (some / all) + 0.5);
}

}  // namespace

CostLedger::CostLedger(const LedgerOptions& options)
    : model_(options.coefficients, options.players_max),
      start_ns_(options.start_ns),
      period_ns_(options.period_ns),
      last_cut_ns_(options.start_ns) {
  CHECK_GT(options.period_ns, 0);
  period_.start_ns = options.start_ns;
  period_.utc_start_ns = options.utc_start_ns;
  period_.rate_card = options.rate_card;
  works_.reserve(options.players_max);
  shares_.reserve(options.players_max);
  due_ns_.reserve(options.players_max);
  charge_ns_.reserve(options.players_max);
  ranking_.reserve(options.players_max);
}

void CostLedger::Cut(Account account, int64_t now_ns, int64_t utc_now_ns) {
  CHECK_GE(now_ns, last_cut_ns_);
  // The wall's clock as it goes now, carried back over the time since the last cut.
  const int64_t utc_offset_ns = utc_now_ns - now_ns;
  const int64_t utc_then_ns = last_cut_ns_ + utc_offset_ns;
  if (QuarterOf(utc_then_ns) != QuarterOf(period_.utc_start_ns)) ClosePeriod(utc_then_ns);
  while (true) {
    const int64_t quarter = QuarterOf(last_cut_ns_ + utc_offset_ns) + 1;
    const int64_t boundary_ns = quarter * kQuarterHourNs - utc_offset_ns;
    if (boundary_ns > now_ns) break;
    BookTo(account, boundary_ns);
    ClosePeriod(quarter * kQuarterHourNs);
  }
  BookTo(account, now_ns);
}

void CostLedger::BookTo(Account account, int64_t until_ns) {
  const int64_t elapsed_ns = until_ns - last_cut_ns_;
  last_cut_ns_ = until_ns;
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

StepCharge CostLedger::ChargeStep(std::span<const StepPlayer> players, int64_t now_ns) {
  CHECK(!players.empty());
  CHECK_GE(now_ns, last_cut_ns_);
  StepCharge charge;
  charge.step_ns = now_ns - last_cut_ns_;
  last_cut_ns_ = now_ns;
  works_.clear();
  for (const StepPlayer& player : players) {
    StepWork& work = works_.emplace_back(player.prefill);
    work.Add(player.decode);
    charge.work.Add(work);
  }
  shares_.resize(players.size());
  charge.modelled_ns = model_.Divide(works_, shares_);
  Apportion(charge.step_ns, players);
  for (size_t i = 0; i < players.size(); ++i) charge.shared_ns += Book(players[i], i);
  return charge;
}

void CostLedger::Apportion(int64_t total_ns, std::span<const StepPlayer> players) {
  const size_t count = players.size();
  const double total = static_cast<double>(total_ns);
  const double shares = SumOf(shares_);
  // A model of all zeros divides equally.
  const double scale = shares > 0 ? total / shares : 0;
  const double equal_ns = shares > 0 ? 0 : total / static_cast<double>(count);
  due_ns_.resize(count);
  charge_ns_.resize(count);
  int64_t left_ns = total_ns;
  for (size_t i = 0; i < count; ++i) {
    const double carry_ns =
        players[i].charges != nullptr ? players[i].charges->carry_ns : overhead_carry_ns_;
    due_ns_[i] = (shares_[i].shared_ns + shares_[i].own_ns) * scale + equal_ns + carry_ns;
    charge_ns_[i] = due_ns_[i] > 0 ? static_cast<int64_t>(due_ns_[i]) : 0;
    left_ns -= charge_ns_[i];
  }
  GiveRemainders(left_ns, players);
}

void CostLedger::GiveRemainders(int64_t left_ns, std::span<const StepPlayer> players) {
  const int64_t count = static_cast<int64_t>(players.size());
  // Carries are fractions, so that as a rule less than a nanosecond for each is left.
  for (; left_ns >= count; left_ns -= count) {
    for (int64_t& charge_ns : charge_ns_) ++charge_ns;
  }
  if (left_ns > 0) GiveToMostOwed(left_ns, players);
  for (; left_ns < 0; ++left_ns) TakeFromLeastOwed(players);
}

// Whoever is owed most by the charge so far pays the next nanosecond; of equals the first to come.
bool CostLedger::OwesMore(std::span<const StepPlayer> players, int32_t a, int32_t b) const {
  const double owed_a = OwedNs(a);
  const double owed_b = OwedNs(b);
  return owed_a != owed_b ? owed_a > owed_b : players[a].order < players[b].order;
}

// By buckets of equal width, the highest first: only the one in which the nanoseconds run out needs
// sorting. A selection over all of them took half of the ledger's time at 256 players.
void CostLedger::GiveToMostOwed(int64_t left_ns, std::span<const StepPlayer> players) {
  constexpr int kBuckets = 64;
  std::array<int32_t, kBuckets> sizes = {};
  const auto bucket_of = [this](size_t i) {
    return std::clamp(static_cast<int>(OwedNs(i) * kBuckets), 0, kBuckets - 1);
  };
  for (size_t i = 0; i < players.size(); ++i) ++sizes[bucket_of(i)];
  int last = kBuckets - 1;
  for (; sizes[last] < left_ns; --last) left_ns -= sizes[last];
  ranking_.clear();
  for (size_t i = 0; i < players.size(); ++i) {
    const int bucket = bucket_of(i);
    if (bucket == last) ranking_.push_back(static_cast<int32_t>(i));
    if (bucket > last) ++charge_ns_[i];
  }
  const auto owes_more = [&](int32_t a, int32_t b) { return OwesMore(players, a, b); };
  std::nth_element(ranking_.begin(), ranking_.begin() + (left_ns - 1), ranking_.end(), owes_more);
  for (int64_t i = 0; i < left_ns; ++i) ++charge_ns_[ranking_[i]];
}

void CostLedger::TakeFromLeastOwed(std::span<const StepPlayer> players) {
  int32_t least = -1;
  for (int32_t i = 0; i < static_cast<int32_t>(players.size()); ++i) {
    if (charge_ns_[i] > 0 && (least < 0 || OwesMore(players, least, i))) least = i;
  }
  --charge_ns_[least];
}

// Returns the charge's shared part.
int64_t CostLedger::Book(const StepPlayer& player, size_t index) {
  const StepShare& share = shares_[index];
  const int64_t charge_ns = charge_ns_[index];
  const double carry_ns = due_ns_[index] - static_cast<double>(charge_ns);
  const int64_t shared_ns = PartOf(charge_ns, share.shared_ns, share.shared_ns + share.own_ns);
  if (player.charges == nullptr) {
    totals_.overhead_ns += charge_ns;
    overhead_carry_ns_ = carry_ns;
    return shared_ns;
  }
  Charges& charges = *player.charges;
  charges.carry_ns = carry_ns;
  charges.machine_ns += charge_ns;
  charges.shared_ns += shared_ns;
  charges.own_ns += charge_ns - shared_ns;
  int64_t prefill_ns = player.decode.tokens == 0 ? charge_ns : 0;
  if (player.prefill.tokens > 0 && player.decode.tokens > 0) {
    const double prefill = model_.OwnNs(player.prefill);
    prefill_ns = PartOf(charge_ns, prefill, prefill + model_.OwnNs(player.decode));
  }
  charges.prefill_ns += prefill_ns;
  charges.decode_ns += charge_ns - prefill_ns;
  if (unrecorded_) {
    totals_.unrecorded_ns += charge_ns;
    charges.unrecorded_ns += charge_ns;
    return shared_ns;
  }
  totals_.request_ns += charge_ns;
  if (charges.tenant != nullptr) {
    charges.tenant->charges.request_ns += charge_ns;
    charges.tenant->charges.open_ns += charge_ns;
  }
  return shared_ns;
}

void CostLedger::Open(const std::string& tenant, Charges* charges) {
  std::unique_ptr<TenantAccount>& account = tenants_[tenant];
  if (account == nullptr) {
    account = std::make_unique<TenantAccount>();
    account->charges.tenant = tenant;
  }
  ++account->requests;
  charges->tenant = account.get();
}

void CostLedger::Close(const Charges& charges, const Closing& closing) {
  CHECK(charges.tenant != nullptr);
  --charges.tenant->requests;
  TenantCharges& tenant = charges.tenant->charges;
  tenant.open_ns -= charges.recorded_ns();
  if (closing.lost) {
    tenant.lost_ns += charges.recorded_ns();
  } else if (closing.written_off) {
    tenant.written_off_ns += charges.recorded_ns();
  }
}

void CostLedger::ClosePeriodIfDue(int64_t utc_now_ns) {
  const bool over = last_cut_ns_ - period_.start_ns >= period_ns_;
  if (over || QuarterOf(utc_now_ns) != QuarterOf(period_.utc_start_ns)) ClosePeriod(utc_now_ns);
}

void CostLedger::ClosePeriod(int64_t utc_now_ns) {
  if (last_cut_ns_ > period_.start_ns) {
    period_.end_ns = last_cut_ns_;
    period_.accounts = Since(period_begin_, totals_);
    for (auto next = tenants_.begin(); next != tenants_.end();) {
      TenantAccount& account = *next->second;
      TenantCharges& charges = account.charges;
      const bool silent = charges.request_ns == 0 && charges.open_ns == 0 &&
                          charges.written_off_ns == 0 && charges.lost_ns == 0;
      if (!silent) period_.tenants.push_back(charges);
      charges.request_ns = charges.written_off_ns = charges.lost_ns = 0;
      // erase(iterator) of this map gives no next one.
      if (const auto here = next++; account.requests == 0) tenants_.erase(here);
    }
    std::sort(period_.tenants.begin(), period_.tenants.end(),
              [](const TenantCharges& a, const TenantCharges& b) { return a.tenant < b.tenant; });
    closed_.push_back(period_);
    ++period_.number;
    period_.start_ns = last_cut_ns_;
    period_.tenants.clear();
    period_begin_ = totals_;
  }
  period_.utc_start_ns = utc_now_ns;
}

void CostLedger::TakePeriods(std::vector<Period>* periods) {
  if (closed_.empty()) return;
  if (periods != nullptr) {
    for (Period& period : closed_) periods->push_back(std::move(period));
  }
  closed_.clear();
}

void CostLedger::SetRateCard(const RateCard& rate_card, int64_t utc_now_ns) {
  ClosePeriod(utc_now_ns);
  period_.rate_card = rate_card;
}

void CostLedger::Settle(Charges* charges) const {
  const int64_t new_ns = charges->machine_ns - charges->settled_ns;
  charges->settled_ns = charges->machine_ns;
  if (rate_card().known()) {
    charges->settled += ExactMoneyOf(rate_card(), new_ns);
  } else if (new_ns > 0) {
    charges->unpriced = true;
  }
}

Cost CostLedger::CostOf(const Charges& charges, bool written_off) const {
  Cost cost;
  cost.machine_ns = charges.machine_ns;
  cost.shared_ns = charges.shared_ns;
  cost.own_ns = charges.own_ns;
  cost.prefill_ns = charges.prefill_ns;
  cost.decode_ns = charges.decode_ns;
  cost.has_rate = rate_card().known() && !charges.unpriced;
  if (!cost.has_rate) return cost;
  cost.rate_card_id = rate_card().id;
  if (written_off) return cost;
  cost.cost_nanousd =
      NanoUsd(charges.settled + ExactMoneyOf(rate_card(), charges.machine_ns - charges.settled_ns));
  return cost;
}

}  // namespace tuppence
