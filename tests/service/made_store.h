// MadeStore: a usage store written with plain SQL, period by period, so that tests of what reads
// the books know every number in them, right or wrong.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "service/usage_reader.h"
#include "tests/support/fake_clock.h"

namespace tuppence {

// RFC 3339.
int64_t Utc(const std::string& time);

struct MadePeriod {
  int64_t seconds = 60;
  AccountTotals accounts = {};             // request from the charges; what is left is idle
  std::vector<StoredCharge> charges = {};  // model "phi" where none is named
  int64_t micro_usd_per_hour = 526'000;
  std::string rate_card_id = "card";  // "": no rate known
};

struct MadeRequest {
  std::string id;
  std::string tenant = "acme";
  int64_t machine_ns = 0;
  int64_t ended_ns = 0;  // monotonic
  std::optional<int64_t> cost_nanousd = {};
  bool written_off = false;
  std::optional<int64_t> reference_nanousd = {};
  int64_t unrecorded_ns = 0;  // of machine_ns
};

class MadeStore {
 public:
  // An empty store at a new path of the test at hand.
  MadeStore();
  ~MadeStore();

  const std::string& path() const { return path_; }

  // A process of `instance` whose monotonic clock is UTC's, so that tests count in one of them.
  void Run(const std::string& id, const std::string& instance, int64_t started_utc_ns,
           int64_t machine_share_ppm = kPpm, const std::string& model = "phi");
  // Follows the run's last one.
  void Period(const std::string& run, MadePeriod period);
  void Request(const std::string& run, const MadeRequest& request);
  // After a graceful end at the last period's, or at a last sign of life so long after it.
  void End(const std::string& run, int64_t lost_ns = 0);

  void Sql(const std::string& sql);

 private:
  struct Last {
    int64_t number = 0;
    int64_t end_ns = 0;
  };

  std::string path_;
  sqlite3* database_ = nullptr;
  std::map<std::string, Last> runs_;
};

}  // namespace tuppence
