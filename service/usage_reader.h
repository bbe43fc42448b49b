// UsageReader: a usage store as it lies on disk, read only, into plain structs. The one way in for
// whatever reads the books: invoice, bill, ledger verify, store export. A store may hold millions
// of requests: rows are handed over one at a time and nothing is kept.
//
// Works beside a running service: everything is read within one transaction, so that rows and
// periods belong together.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "scheduler/period.h"
#include "scheduler/rate_card.h"
#include "scheduler/request.h"

struct sqlite3;

namespace tuppence {

// One process.
struct StoredRun {
  std::string run_id;
  std::string instance;
  std::string boot_id;
  std::string version;
  std::string model;
  std::string arithmetic_id;
  int64_t machine_share_ppm = kPpm;
  int64_t started_ns = 0;
  int64_t started_utc_ns = 0;
  std::optional<int64_t> ended_ns;  // none: still running, or killed
  std::optional<int64_t> ended_utc_ns;
  // What the books know of its end.
  int64_t booked_until_ns = 0;  // the last period's end; started_ns where there is none
  int64_t last_row_ns = 0;      // when its last request ended; started_ns where there is none
  // Of its last period. A process that ended before its first one held the machine all the same:
  // then the card it started under; where an older store does not say, the one that the instance
  // was booked under before it, or else after it.
  RateCard last_card;

  // The last moment the process is known to have lived.
  int64_t last_sign_ns() const;
  // Held the machine, and is in no period: lost with a process that was killed.
  int64_t unaccounted_ns() const;
  int64_t UtcNs(int64_t monotonic_ns) const { return started_utc_ns + (monotonic_ns - started_ns); }
};

struct StoredCharge {
  std::string tenant;
  std::string model;
  int64_t request_ns = 0;
  int64_t open_ns = 0;
  int64_t written_off_ns = 0;
  int64_t lost_ns = 0;
};

struct StoredPeriod {
  std::string run_id;
  int64_t number = 0;
  int64_t start_ns = 0;
  int64_t end_ns = 0;
  int64_t utc_start_ns = 0;
  std::optional<std::string> rate_card_id;
  std::optional<int64_t> micro_usd_per_hour;
  AccountTotals accounts;
  std::vector<StoredCharge> charges;  // by tenant and model

  int64_t elapsed_ns() const { return end_ns - start_ns; }
  // The card it was booked under, with the run's share; not known() without one.
  RateCard Card(const StoredRun& run) const;
};

struct StoredRequest {
  int64_t sequence = 0;
  std::string request_id;
  std::string caller_id;
  std::string run_id;
  std::string tenant;
  std::string model;
  int64_t received_utc_ns = 0;
  int64_t ended_utc_ns = 0;
  int64_t ended_ns = 0;
  std::string outcome;
  int64_t code = 0;
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t queue_ns = 0;
  int64_t prefill_time_ns = 0;
  int64_t decode_time_ns = 0;
  int64_t total_ns = 0;
  int64_t time_to_first_token_ns = 0;
  int64_t steps = 0;
  int64_t preemptions = 0;
  double mean_requests_per_step = 0;
  double kv_block_seconds = 0;
  int64_t machine_ns = 0;
  int64_t shared_ns = 0;
  int64_t own_ns = 0;
  int64_t prefill_ns = 0;
  int64_t decode_ns = 0;
  int64_t unrecorded_ns = 0;  // of machine_ns, booked to the unrecorded account
  bool written_off = false;
  std::optional<int64_t> cost_nanousd;
  std::optional<std::string> rate_card_id;
  std::optional<int64_t> reference_nanousd;
  std::optional<std::string> reference_id;
  std::optional<std::string> replay_of;  // whose answer it made again; none: its own

  int64_t recorded_ns() const { return machine_ns - unrecorded_ns; }
};

Usage UsageOf(const StoredRequest& row);
Cost CostOf(const StoredRequest& row);

struct FoundRequest {
  StoredRequest request;
  RateCard card;  // at its end, with the run's share; not known() without one
};

// What a tenant spent in a day of UTC, by the rows of requests received in it and what kills cut
// off.
struct StoredDay {
  std::string tenant;
  int64_t day = 0;  // since 1970
  int64_t spent_nanousd = 0;
  int64_t cut_off_nanousd = 0;  // of it
};

// [from, to) in UTC.
struct UtcWindow {
  int64_t from_ns = std::numeric_limits<int64_t>::min();
  int64_t to_ns = std::numeric_limits<int64_t>::max();

  bool Holds(int64_t utc_ns) const { return from_ns <= utc_ns && utc_ns < to_ns; }
};

class UsageReader {
 public:
  // NOT_FOUND: no such file. INVALID_ARGUMENT: no usage store. FAILED_PRECONDITION: made by a newer
  // version. Every message names the path.
  static absl::StatusOr<std::unique_ptr<UsageReader>> Open(const std::string& path);
  ~UsageReader();

  const std::string& path() const { return path_; }

  // By start.
  absl::StatusOr<std::vector<StoredRun>> Runs();
  // By id, without a share.
  absl::StatusOr<std::map<std::string, RateCard>> RateCards();
  // By run and number, each with its charges. DATA_LOSS for charges whose period is not there.
  // Whatever `take` returns but OK ends it and is returned.
  absl::Status ForEachPeriod(const std::function<absl::Status(const StoredPeriod&)>& take);
  // Requests that ended in the window, in the order they became durable.
  absl::Status ForEachRequest(const UtcWindow& ended,
                              const std::function<absl::Status(const StoredRequest&)>& take);
  // The request of that id, the service's or the caller's own (then the latest), of that tenant or
  // of any. None: there is no such row.
  absl::StatusOr<std::optional<FoundRequest>> FindRequest(const std::string& id,
                                                          const std::optional<std::string>& tenant);
  // By tenant and day. None: the store is older than they are.
  absl::StatusOr<std::optional<std::vector<StoredDay>>> Days();
  // Rows that retention has removed: how many sequence numbers precede the first row kept.
  absl::StatusOr<int64_t> RemovedRequests();

 private:
  UsageReader(std::string path, sqlite3* database) : path_(std::move(path)), database_(database) {}
  absl::Status CheckIsStore();
  std::string RequestColumns() const;
  std::string RunCardColumns() const;
  absl::Status ReadRunEnds(std::vector<StoredRun>* runs);
  absl::Status ReadRunCards(std::vector<StoredRun>* runs);

  const std::string path_;
  sqlite3* const database_;
  int64_t version_ = 0;  // of its schema
};

}  // namespace tuppence
