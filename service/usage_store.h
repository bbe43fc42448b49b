// UsageStore: the books on disk: one SQLite file with a row for each finished request, the periods
// beside them, and the runs (processes) they came from. What Write has returned OK for is durable:
// write-ahead log, fsync at every commit. One process writes; readers open the file beside it.
// Used by the bookkeeper; the tables are usage_schema's. Thread: one at a time, but for BytesFree.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "scheduler/clock.h"
#include "scheduler/rate_card.h"
#include "scheduler/step_records.h"
#include "service/budget_store.h"
#include "service/key_store.h"

struct sqlite3;

namespace tuppence {

class StoreLock;

// This process, as the runs table has it.
struct StoreRun {
  std::string instance = {};  // the machine, as the bill names it; "": its host name
  std::string version = {};
  RateCard rate_card = {};  // with the share, at its start: a process may end while it loads
  int64_t started_ns = 0;
  int64_t started_utc_ns = 0;
};

struct StoreOptions {
  std::string path = {};
  int keep_requests_days = 90;  // rows of requests that ended longer ago are removed
  int checkpoint_pages = 1000;  // the log is moved into the file when it has so many: 4 MB
  std::string vfs = {};         // SQLite's file system; "": the machine's. Tests have their own
};

constexpr int kKeepPeriodsDays = 400;

class UsageStore {
 public:
  // Makes the file where there is none, takes it to this version's schema where it is older, closes
  // the books of a run that was killed, and opens those of this one. Every error names the path,
  // what was found and the way out:
  //   FAILED_PRECONDITION  another process has it; a newer version made it; it is no usage store
  //   UNAVAILABLE          it cannot be opened or written
  static absl::StatusOr<std::unique_ptr<UsageStore>> Open(const StoreOptions& options,
                                                          const StoreRun& run, const Clock* clock);
  ~UsageStore();

  // What is served, known once it is loaded. Before the first row.
  absl::Status NameModel(const std::string& model, const std::string& arithmetic_id);

  // Makes rows, periods and holds durable, all or none, and each once however often it is tried: a
  // row or period that is there already stays as it is. A row's cost is posted to its tenant's day
  // and its hold is over. With nothing it is a trial whether the disk can be written. After an
  // error everything may be tried again with the same store. Requires: no row is `unrecorded`.
  absl::Status Write(std::span<const EndedRequest> ended, std::span<const Period> periods,
                     const HoldChanges& holds = {});

  // What each tenant has spent since the month of UTC began that holds the moment.
  absl::StatusOr<std::vector<DaySpend>> SpendOfMonth(int64_t utc_ns);

  // The run ended in good order, at the end of its last period.
  absl::Status EndRun(int64_t ended_ns);

  // What can wait until nobody does: moves the log into the file once it is long, and removes some
  // of what is kept no longer. Call it often; it returns soon.
  void Tidy(int64_t now_ns, int64_t utc_now_ns);

  const std::string& path() const { return options_.path; }
  const std::string& run_id() const { return run_id_; }
  // On the store's file system; -1 where it is not known. Any thread.
  int64_t BytesFree() const;

 private:
  UsageStore(const StoreOptions& options, const StoreRun& run, std::unique_ptr<StoreLock> lock);

  absl::Status OpenFile();
  absl::Status CheckIsOurs();
  absl::Status Migrate();
  absl::Status Prepare();
  absl::Status BeginRun();
  absl::Status WriteRow(const RequestRow& row);
  bool WriteCard(const RateCard& card);
  absl::Status WritePeriod(const Period& period);
  absl::Status Remove(int64_t now_ns, int64_t utc_now_ns);

  absl::Status Execute(const char* sql);
  absl::StatusOr<int64_t> Number(const char* sql);
  absl::Status Done(bool done) const { return done ? absl::OkStatus() : Failure(); }
  // Begin, `body`, commit; or, after any error, nothing at all.
  absl::Status InTransaction(const std::function<absl::Status()>& body);
  // What SQLite's last error means to whoever runs the service.
  absl::Status Failure() const;
  // FAILED_PRECONDITION: it cannot be used as it is.
  absl::Status Refused(const std::string& found, const std::string& way_out) const;

  const StoreOptions options_;
  const StoreRun run_;
  const std::string run_id_;  // random, 32 hexadecimal digits
  const std::unique_ptr<StoreLock> lock_;
  sqlite3* database_ = nullptr;
  struct Statements;  // prepared once
  std::unique_ptr<Statements> statements_;
  std::unique_ptr<BudgetStore> budgets_;
  std::unique_ptr<KeyStore> keys_;
  std::string model_;
  int log_pages_ = 0;  // of the write-ahead log, at the last commit
  int checkpoint_at_pages_;
  int64_t next_removal_ns_ = 0;
};

}  // namespace tuppence
