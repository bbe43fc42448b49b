#include "service/budgets.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/civil_time.h"
#include "absl/time/time.h"
#include "scheduler/refusal.h"
#include "service/money.h"
#include "service/rpc_status.h"

namespace tuppence {
namespace {

constexpr int64_t kRetryHeldMs = 1000;
constexpr int64_t kNsPerMs = 1'000'000;

absl::CivilDay CivilDayOf(int64_t day) { return absl::CivilDay(1970, 1, 1) + day; }

int64_t MonthOf(int64_t day) {
  const absl::CivilDay civil = CivilDayOf(day);
  return civil.year() * 12 + civil.month() - 1;
}

int64_t WindowOf(BudgetSpan span, int64_t day) {
  return span == BudgetSpan::kDay ? day : MonthOf(day);
}

int64_t WindowEndUtcNs(BudgetSpan span, int64_t window) {
  if (span == BudgetSpan::kDay) return (window + 1) * kDayNs;
  const absl::CivilMonth next(window / 12, window % 12 + 2);
  return (absl::CivilDay(next) - absl::CivilDay(1970, 1, 1)) * kDayNs;
}

std::string UtcTime(int64_t utc_ns) {
  return absl::FormatTime("%Y-%m-%d %H:%M UTC", absl::FromUnixNanos(utc_ns), absl::UTCTimeZone());
}

}  // namespace

const char* NameOf(BudgetSpan span) { return span == BudgetSpan::kDay ? "day" : "month"; }

bool TenantBudgets::any() const {
  return others.has_value() || std::any_of(tenants.begin(), tenants.end(),
                                           [](const auto& one) { return one.second.has_value(); });
}

void Budgets::Window::Add(int64_t number_now, int64_t spent_nanousd) {
  if (number_now < number) return;
  if (number_now > number) *this = {.number = number_now};
  nanousd += spent_nanousd;
}

void Budgets::SetBudgets(TenantBudgets budgets) {
  absl::MutexLock lock(&mutex_);
  budgets_ = std::move(budgets);
}

void Budgets::SetSpent(const std::vector<DaySpend>& spend) {
  absl::MutexLock lock(&mutex_);
  for (const DaySpend& one : spend) AddSpend(one.tenant, one.day, one.nanousd);
}

bool Budgets::any() const {
  absl::MutexLock lock(&mutex_);
  return budgets_.any();
}

bool Budgets::Has(const std::string& tenant) const {
  absl::MutexLock lock(&mutex_);
  return BudgetOf(tenant).has_value();
}

std::optional<Budget> Budgets::BudgetOf(const std::string& tenant) const {
  const auto named = budgets_.tenants.find(tenant);
  return named == budgets_.tenants.end() ? budgets_.others : named->second;
}

absl::Status Budgets::Hold(const BudgetHold& hold) {
  absl::MutexLock lock(&mutex_);
  const std::optional<Budget> budget = BudgetOf(hold.tenant);
  if (!budget.has_value()) return absl::OkStatus();
  Account& account = accounts_[hold.tenant];
  const int64_t now = WindowOf(budget->per, DayOf(hold.held_utc_ns));
  const int64_t spent = (budget->per == BudgetSpan::kDay ? account.day : account.month).Spent(now);
  if (hold.nanousd > budget->nanousd - spent - account.held_nanousd) {
    return Refuse(hold, *budget, &account);
  }
  account.held_nanousd += hold.nanousd;
  open_[hold.request_id] = {.tenant = hold.tenant, .nanousd = hold.nanousd};
  changes_.made.push_back(hold);
  return absl::OkStatus();
}

absl::Status Budgets::Refuse(const BudgetHold& hold, const Budget& budget, Account* account) {
  const Window& window = budget.per == BudgetSpan::kDay ? account->day : account->month;
  const int64_t now = std::max(WindowOf(budget.per, DayOf(hold.held_utc_ns)), window.number);
  const int64_t spent = window.Spent(now);
  const int64_t end_utc_ns = WindowEndUtcNs(budget.per, now);
  const bool held_only = hold.nanousd <= budget.nanousd - spent;
  const bool too_large = hold.nanousd > budget.nanousd;
  Refusal refusal = Because(held_only ? reason::kBudgetHeld : reason::kBudgetSpent,
                            {{"budget_nanousd", absl::StrCat(budget.nanousd)},
                             {"spent_nanousd", absl::StrCat(spent)},
                             {"held_nanousd", absl::StrCat(account->held_nanousd)},
                             {"request_nanousd_max", absl::StrCat(hold.nanousd)},
                             {"window_end_unix_ns", absl::StrCat(end_utc_ns)}});
  refusal.tenant = hold.tenant;
  std::string way_out = "; lower max_tokens, set max_cost_nanousd, or ask for a larger budget";
  if (held_only) {
    refusal.retry_after_ms = kRetryHeldMs;
    way_out = "; retry when some of them have ended, or lower max_tokens";
  } else if (!too_large) {
    refusal.retry_after_ms = std::max<int64_t>(1, (end_utc_ns - hold.held_utc_ns) / kNsPerMs);
    account->refused.number = now;
    way_out = absl::StrCat("; wait until ", UtcTime(end_utc_ns),
                           ", lower max_tokens, set max_cost_nanousd, or ask for a larger budget");
  }
  return RefusalStatus(
      absl::StatusCode::kResourceExhausted,
      absl::StrCat("this tenant's budget is ", FormatUsdShort(budget.nanousd), " USD a ",
                   NameOf(budget.per), ", of which ", FormatUsdShort(spent), " are spent and ",
                   FormatUsdShort(account->held_nanousd),
                   " held for requests in progress; this request may cost up to ",
                   FormatUsdShort(hold.nanousd), way_out),
      refusal);
}

void Budgets::Void(const std::string& request_id) {
  absl::MutexLock lock(&mutex_);
  Release(request_id, /*stored=*/false);
}

// A hold that the store may have must be taken out of it, unless a row did that.
void Budgets::Release(const std::string& request_id, bool stored) {
  const auto found = open_.find(request_id);
  if (found == open_.end()) return;
  const Open& open = found->second;
  accounts_[open.tenant].held_nanousd -= open.nanousd;
  if (!stored && open.taken) {
    changes_.gone.push_back(request_id);
  } else if (!stored) {
    std::erase_if(changes_.made,
                  [&](const BudgetHold& hold) { return hold.request_id == request_id; });
  }
  open_.erase(found);
}

void Budgets::TakeChanges(HoldChanges* changes) {
  absl::MutexLock lock(&mutex_);
  for (BudgetHold& hold : changes_.made) {
    open_.at(hold.request_id).taken = true;
    changes->made.push_back(std::move(hold));
  }
  // What begins and ends while the store cannot be written never needs to reach it.
  for (std::string& id : changes_.gone) {
    const auto is_it = [&](const BudgetHold& hold) { return hold.request_id == id; };
    if (std::erase_if(changes->made, is_it) == 0) changes->gone.push_back(std::move(id));
  }
  changes_ = {};
}

void Budgets::Post(const RequestRow& row, bool stored) {
  absl::MutexLock lock(&mutex_);
  Release(row.id, stored);
  AddSpend(row.tenant, DayOf(row.received_utc_ns), row.cost.cost_nanousd);
}

void Budgets::AddSpend(const std::string& tenant, int64_t day, int64_t nanousd) {
  const int64_t month = MonthOf(day);
  if (month > month_) {
    month_ = month;
    absl::erase_if(accounts_, [&](const auto& one) {
      return one.second.held_nanousd == 0 && one.second.month.number < month;
    });
  }
  Account& account = accounts_[tenant];
  account.day.Add(day, nanousd);
  account.month.Add(month, nanousd);
}

std::vector<BudgetState> Budgets::States(int64_t utc_ns, size_t most) const {
  std::vector<BudgetState> states;
  const auto add = [&](const std::string& tenant, const Budget& budget, const Account& account) {
    const Window& window = budget.per == BudgetSpan::kDay ? account.day : account.month;
    const int64_t now = std::max(WindowOf(budget.per, DayOf(utc_ns)), window.number);
    states.push_back({.tenant = tenant,
                      .budget = budget,
                      .spent_nanousd = window.Spent(now),
                      .held_nanousd = account.held_nanousd,
                      .exhausted = account.refused.number == now});
  };
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [tenant, budget] : budgets_.tenants) {
      if (!budget.has_value()) continue;
      const auto found = accounts_.find(tenant);
      add(tenant, *budget, found == accounts_.end() ? Account() : found->second);
    }
    for (const auto& [tenant, account] : accounts_) {
      if (!budgets_.others.has_value() || budgets_.tenants.contains(tenant)) continue;
      add(tenant, *budgets_.others, account);
    }
  }
  const auto rank = [](const BudgetState& state) {
    const double part = static_cast<double>(state.spent_nanousd) /
                        static_cast<double>(std::max<int64_t>(1, state.budget.nanousd));
    return std::pair(state.exhausted, part);
  };
  std::sort(states.begin(), states.end(), [&](const BudgetState& a, const BudgetState& b) {
    return rank(a) != rank(b) ? rank(a) > rank(b) : a.tenant < b.tenant;
  });
  if (states.size() > most) states.resize(most);
  return states;
}

}  // namespace tuppence
