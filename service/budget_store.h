// BudgetStore: the usage store's tables of spend and holds. Spend is posted by tenant and day of
// UTC in the transaction that stores a request's row; a hold is there from soon after its request
// began until that transaction. Part of UsageStore; every call is within a transaction of its.
//
// What a kill cut off has a hold and no row. The next start posts for it what its time until then
// may have cost, at most its hold, and keeps the hold with that amount: it is on no bill, but was
// used, and a kill frees no budget. Thread: UsageStore's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "scheduler/step_records.h"
#include "service/budgets.h"
#include "service/sqlite_statement.h"

struct sqlite3;

namespace tuppence {

class BudgetStore {
 public:
  // False, here and below: the database has the error.
  bool Prepare(sqlite3* database);

  bool Change(const HoldChanges& changes, const std::string& run_id);
  // The row's hold is over; its cost is posted where it is new in this transaction.
  bool Post(const RequestRow& row, bool is_new);
  // Posts what runs that have ended, but for ours, left held.
  bool PostCutOff(const std::string& run_id);
  // What was spent since the month began that holds the moment.
  bool ReadSpend(int64_t utc_ns, std::vector<DaySpend>* spend);
  bool Remove(int64_t before_utc_ns);

 private:
  bool Add(const std::string& tenant, int64_t day, int64_t nanousd);

  sqlite3* database_ = nullptr;
  SqliteStatement hold_, release_, spend_;
};

}  // namespace tuppence
