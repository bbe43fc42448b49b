// Books: the reader of the step records, as service/bookkeeper is: stores rows and periods, then
// ends the calls' streams. Its disk is slow, fails for a while, and forgets what was not committed
// when the process crashes. Checks what the records say: periods without a gap, charges that add
// up, each request once.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "scheduler/engine.h"
#include "scheduler/step_records.h"
#include "tests/scheduler/simulation/scenario.h"

namespace tuppence::simulation {

// What is on the disk, and outlives every process.
struct Disk {
  std::set<std::string> rows;  // ids
};

class Books {
 public:
  Books(const Scenario& scenario, int64_t start_ns, Disk* disk);

  StepRecords* records() { return &records_; }
  const std::atomic<bool>* unrecorded() const { return &unrecorded_; }
  void set_engine(Engine* engine) { engine_ = engine; }

  // Does what can be done by now.
  void Run(int64_t now_ns);
  // When there may be more to do though nothing happens; kNever: never.
  int64_t next_ns(int64_t now_ns) const;
  // The process dies: whatever is on its way is gone.
  void Forget();
  // After the engine's last period: everything adds up. Requires: nothing was forgotten.
  void CheckClosed(const CostLedger& ledger, int64_t requests);

  int64_t ended() const { return static_cast<int64_t>(seen_.size()); }
  int64_t ended_machine_ns() const { return ended_machine_ns_; }
  bool at_rest() { return records_.Front() == nullptr && waiting_.empty(); }

 private:
  bool DiskFails(int64_t now_ns) const;
  void TakeDown(StepRecord* record, bool stored);
  void CheckRow(const EndedRequest& ended);
  void CheckPeriod(const Period& period);
  void EndCall(EndedRequest ended);

  const Scenario& scenario_;
  Disk* const disk_;
  StepRecords records_;
  std::atomic<bool> unrecorded_ = false;
  Engine* engine_ = nullptr;
  int64_t busy_until_ns_ = 0;
  int64_t failing_since_ns_ = -1;
  std::vector<EndedRequest> waiting_;  // for the disk

  std::set<std::string> seen_;
  int64_t ended_machine_ns_ = 0;
  int64_t last_end_ns_;
  int64_t periods_ = 0;
  AccountTotals accounts_;  // of all periods
  struct Tenant {
    int64_t request_ns = 0;
    int64_t rows_ns = 0;
    int64_t lost_ns = 0;
    int64_t open_ns = 0;
  };
  std::map<std::string, Tenant> tenants_;
};

}  // namespace tuppence::simulation
