// Budgets: what tenants may spend in a day or a month of UTC, and what they have spent. Before a
// request starts, what it may cost at most is held; when it has ended, its row's cost is posted in
// the hold's place. So requests in progress never pass a budget together, however many there are.
//
// Spend is the usage store's (service/budget_store): posted in the transaction that stores the row.
// A hold counts from the moment it is made, and is stored by the books' thread, at the latest
// behind the request's first step; no caller and no engine waits for the disk. A request is spent
// in the day it came in.
// Made by serve where a usage store is kept. Hold and Void: any thread; Changes, Posted: the
// books'.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "scheduler/rate_card.h"
#include "scheduler/step_records.h"

namespace tuppence {

constexpr int64_t kDayNs = int64_t{86'400} * 1'000'000'000;

// Days since 1970, of UTC.
constexpr int64_t DayOf(int64_t utc_ns) { return utc_ns / kDayNs - (utc_ns % kDayNs < 0 ? 1 : 0); }

enum class BudgetSpan : uint8_t { kDay, kMonth };
const char* NameOf(BudgetSpan span);  // "day", "month"

struct Budget {
  int64_t nanousd = 0;
  BudgetSpan per = BudgetSpan::kDay;
};

// What one request may cost at most.
struct BudgetHold {
  std::string request_id;
  std::string tenant;
  int64_t nanousd = 0;
  int64_t held_ns = 0;  // monotonic
  int64_t held_utc_ns = 0;
  RateCard rate_card = {};  // a kill posts what the time until then may have cost
};

// What the books' thread has to bring to the store.
struct HoldChanges {
  std::vector<BudgetHold> made;
  std::vector<std::string> gone;  // ids: ended without a row

  bool empty() const { return made.empty() && gone.empty(); }
};

struct DaySpend {
  std::string tenant;
  int64_t day = 0;
  int64_t nanousd = 0;
};

// A tenant that has a budget, now.
struct BudgetState {
  std::string tenant;
  Budget budget;
  int64_t spent_nanousd = 0;
  int64_t held_nanousd = 0;
  // A request of this day or month was refused because what is left could not hold it.
  bool exhausted = false;
};

struct TenantBudgets {
  absl::flat_hash_map<std::string, std::optional<Budget>> tenants;  // named, with one or without
  std::optional<Budget> others;                                     // each of the rest has it

  bool any() const;
};

class Budgets {
 public:
  // From now on these hold.
  void SetBudgets(TenantBudgets budgets);
  // What the store says was spent since the month began. Before the first request.
  void SetSpent(const std::vector<DaySpend>& spend);
  bool any() const;
  bool Has(const std::string& tenant) const;

  // Holds hold.nanousd of the tenant's budget, if it has one. RESOURCE_EXHAUSTED with a Refusal
  // where the budget would be passed: BUDGET_SPENT, until the day or month ends, or BUDGET_HELD,
  // for a moment, where it would not be but for requests that have not ended.
  absl::Status Hold(const BudgetHold& hold);
  // The request never started.
  void Void(const std::string& request_id);

  // Moves what happened since the last call to the end of *changes.
  void TakeChanges(HoldChanges* changes);
  // The request has ended. stored: its row is, and with it the hold's end.
  void Post(const RequestRow& row, bool stored);

  // Those of the tenants with a budget that have spent the largest part of it, at most `most`.
  std::vector<BudgetState> States(int64_t utc_ns, size_t most) const;

 private:
  struct Window {
    int64_t number = -1;  // the day since 1970; the month since year 0
    int64_t nanousd = 0;

    void Add(int64_t number_now, int64_t spent_nanousd);
    // A window never goes back, though the clock on the wall may.
    int64_t Spent(int64_t number_now) const { return number_now > number ? 0 : nanousd; }
  };
  struct Account {
    Window day, month;
    int64_t held_nanousd = 0;
    Window refused;  // of its number alone
  };
  struct Open {
    std::string tenant;
    int64_t nanousd = 0;
    bool taken = false;  // by the books: the store has it, or will
  };

  std::optional<Budget> BudgetOf(const std::string& tenant) const
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  absl::Status Refuse(const BudgetHold& hold, const Budget& budget, Account* account)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Release(const std::string& request_id, bool stored) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddSpend(const std::string& tenant, int64_t day, int64_t nanousd)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  TenantBudgets budgets_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, Account> accounts_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, Open> open_ ABSL_GUARDED_BY(mutex_);  // by request id
  HoldChanges changes_ ABSL_GUARDED_BY(mutex_);
  int64_t month_ ABSL_GUARDED_BY(mutex_) = -1;  // accounts of earlier ones have been dropped
};

}  // namespace tuppence
