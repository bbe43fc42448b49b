#include "service/usage_reader.h"

#include <sqlite3.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/sqlite_rows.h"
#include "service/usage_schema.h"

namespace tuppence {
namespace {

absl::Status Named(const absl::Status& status, const std::string& path) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

constexpr char kRequestColumns[] =
    "sequence, request_id, caller_id, run_id, tenant, requests.model, received_utc_ns, "
    "requests.ended_utc_ns, requests.ended_ns, outcome, code, prompt_tokens, cached_tokens, "
    "completion_tokens, queue_ns, prefill_time_ns, decode_time_ns, total_ns, "
    "time_to_first_token_ns, steps, preemptions, mean_requests_per_step, "
    "kv_block_seconds, machine_ns, shared_ns, own_ns, prefill_ns, decode_ns, "
    "unrecorded_ns, written_off, cost_nanousd, rate_card_id, reference_nanousd, reference_id";

// Of RequestColumns.
StoredRequest ReadRequest(SqliteRows* rows) {
  StoredRequest row;
  row.sequence = rows->Integer();
  row.request_id = rows->Text();
  row.caller_id = rows->Text();
  row.run_id = rows->Text();
  row.tenant = rows->Text();
  row.model = rows->Text();
  row.received_utc_ns = rows->Integer();
  row.ended_utc_ns = rows->Integer();
  row.ended_ns = rows->Integer();
  row.outcome = rows->Text();
  row.code = rows->Integer();
  for (int64_t* value : {&row.prompt_tokens, &row.cached_tokens, &row.completion_tokens,
                         &row.queue_ns, &row.prefill_time_ns, &row.decode_time_ns, &row.total_ns,
                         &row.time_to_first_token_ns, &row.steps, &row.preemptions}) {
    *value = rows->Integer();
  }
  row.mean_requests_per_step = rows->Real();
  row.kv_block_seconds = rows->Real();
  for (int64_t* value :
       {&row.machine_ns, &row.shared_ns, &row.own_ns, &row.prefill_ns, &row.decode_ns}) {
    *value = rows->Integer();
  }
  row.unrecorded_ns = rows->Integer();
  row.written_off = rows->Integer() != 0;
  row.cost_nanousd = rows->IntegerOrNull();
  row.rate_card_id = rows->TextOrNull();
  row.reference_nanousd = rows->IntegerOrNull();
  row.reference_id = rows->TextOrNull();
  row.replay_of = rows->TextOrNull();
  return row;
}

// The charges beside the periods: both come by run and number, so one look ahead joins them.
class ChargesInStep {
 public:
  explicit ChargesInStep(sqlite3* database)
      : rows_(database,
              "SELECT run_id, number, tenant, model, request_ns, open_ns, written_off_ns, lost_ns "
              "FROM period_charges ORDER BY run_id, number, tenant, model") {
    Advance();
  }

  // Moves the period's charges into it. DATA_LOSS for one that belongs to no period.
  absl::Status Take(StoredPeriod* period) {
    const auto key = std::tie(period->run_id, period->number);
    if (held_ && std::tie(run_id_, number_) < key) return Orphan();
    while (held_ && std::tie(run_id_, number_) == key) {
      period->charges.push_back(std::move(charge_));
      Advance();
    }
    return rows_.status();
  }
  absl::Status Finish() { return held_ ? Orphan() : rows_.status(); }

 private:
  absl::Status Orphan() const {
    return absl::DataLossError(absl::StrCat("period_charges row (run ", run_id_, ", period ",
                                            number_, ", tenant ", charge_.tenant,
                                            ") belongs to no period"));
  }
  void Advance() {
    held_ = rows_.Next();
    if (!held_) return;
    run_id_ = rows_.Text();
    number_ = rows_.Integer();
    charge_ = {};
    charge_.tenant = rows_.Text();
    charge_.model = rows_.Text();
    charge_.request_ns = rows_.Integer();
    charge_.open_ns = rows_.Integer();
    charge_.written_off_ns = rows_.Integer();
    charge_.lost_ns = rows_.Integer();
  }

  SqliteRows rows_;
  bool held_ = false;
  std::string run_id_;
  int64_t number_ = 0;
  StoredCharge charge_;
};

}  // namespace

int64_t StoredRun::last_sign_ns() const {
  return std::max({booked_until_ns, last_row_ns, ended_ns.value_or(started_ns)});
}

int64_t StoredRun::unaccounted_ns() const { return last_sign_ns() - booked_until_ns; }

RateCard StoredPeriod::Card(const StoredRun& run) const {
  RateCard card;
  if (!micro_usd_per_hour.has_value()) return card;
  card.id = rate_card_id.value_or("");
  card.micro_usd_per_hour = *micro_usd_per_hour;
  card.machine_share_ppm = run.machine_share_ppm;
  return card;
}

absl::StatusOr<std::unique_ptr<UsageReader>> UsageReader::Open(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    return absl::NotFoundError(absl::StrCat(
        path, ": no such file; give the usage store that `tuppence serve --usage-store` wrote"));
  }
  sqlite3* database = nullptr;
  const int code = sqlite3_open_v2(path.c_str(), &database, SQLITE_OPEN_READONLY, nullptr);
  std::unique_ptr<UsageReader> reader(new UsageReader(path, database));
  if (code != SQLITE_OK) {
    return absl::NotFoundError(absl::StrCat(path, ": ", sqlite3_errmsg(database)));
  }
  sqlite3_busy_timeout(database, kSqliteBusyMs);
  if (absl::Status status = reader->CheckIsStore(); !status.ok()) return Named(status, path);
  return reader;
}

UsageReader::~UsageReader() { sqlite3_close(database_); }

absl::Status UsageReader::CheckIsStore() {
  const absl::Status not_a_store = absl::InvalidArgumentError(
      "is not a usage store of tuppence; give the file that `tuppence serve --usage-store` wrote");
  if (sqlite3_exec(database_, "BEGIN", nullptr, nullptr, nullptr) != SQLITE_OK) {
    return absl::UnavailableError(sqlite3_errmsg(database_));
  }
  // The first read takes the snapshot that all later ones see.
  SqliteRows version(database_, "PRAGMA user_version");
  if (!version.Next()) {
    const int code = sqlite3_errcode(database_);
    if (code == SQLITE_NOTADB) return not_a_store;
    return absl::UnavailableError(sqlite3_errmsg(database_));
  }
  const int64_t found = version_ = version.Integer();
  SqliteRows tables(database_,
                    "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name IN "
                    "('runs', 'rate_cards', 'periods', 'period_charges', 'requests')");
  if (!tables.Next() || tables.Integer() != 5) return not_a_store;
  if (found > kUsageSchemaVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("is a usage store of schema version ", found, ", this program knows up to ",
                     kUsageSchemaVersion, "; read it with the version that wrote it"));
  }
  return absl::OkStatus();
}

// A store of an older version knows of no answer that was made again.
std::string UsageReader::RequestColumns() const {
  return absl::StrCat(kRequestColumns, version_ < 3 ? ", NULL AS replay_of" : ", replay_of");
}

// Nor of the card that a process started under.
std::string UsageReader::RunCardColumns() const {
  return version_ < 4 ? ", NULL, NULL" : ", start_rate_card_id, start_micro_usd_per_hour";
}

absl::StatusOr<std::vector<StoredRun>> UsageReader::Runs() {
  SqliteRows rows(database_,
                  "SELECT run_id, instance, boot_id, version, model, arithmetic_id, "
                  "machine_share_ppm, started_ns, started_utc_ns, ended_ns, ended_utc_ns" +
                      RunCardColumns() + " FROM runs ORDER BY started_utc_ns, run_id");
  std::vector<StoredRun> runs;
  while (rows.Next()) {
    StoredRun run;
    run.run_id = rows.Text();
    run.instance = rows.Text();
    run.boot_id = rows.Text();
    run.version = rows.Text();
    run.model = rows.Text();
    run.arithmetic_id = rows.Text();
    run.machine_share_ppm = rows.Integer();
    run.started_ns = rows.Integer();
    run.started_utc_ns = rows.Integer();
    run.ended_ns = rows.IntegerOrNull();
    run.ended_utc_ns = rows.IntegerOrNull();
    run.last_card.id = rows.TextOrNull().value_or("");
    run.last_card.micro_usd_per_hour = rows.IntegerOrNull().value_or(-1);
    run.booked_until_ns = run.last_row_ns = run.started_ns;
    runs.push_back(std::move(run));
  }
  absl::Status status = rows.status();
  status.Update(ReadRunEnds(&runs));
  status.Update(ReadRunCards(&runs));
  if (!status.ok()) return Named(status, path_);
  return runs;
}

absl::Status UsageReader::ReadRunEnds(std::vector<StoredRun>* runs) {
  std::map<std::string, StoredRun*> by_id;
  for (StoredRun& run : *runs) by_id[run.run_id] = &run;
  SqliteRows periods(database_, "SELECT run_id, MAX(end_ns) FROM periods GROUP BY run_id");
  while (periods.Next()) {
    const auto run = by_id.find(periods.Text());
    if (run != by_id.end()) run->second->booked_until_ns = periods.Integer();
  }
  SqliteRows requests(database_, "SELECT run_id, MAX(ended_ns) FROM requests GROUP BY run_id");
  while (requests.Next()) {
    const auto run = by_id.find(requests.Text());
    if (run != by_id.end()) run->second->last_row_ns = requests.Integer();
  }
  absl::Status status = periods.status();
  status.Update(requests.status());
  return status;
}

absl::Status UsageReader::ReadRunCards(std::vector<StoredRun>* runs) {
  // Beside MIN or MAX, SQLite takes the other columns from that row.
  const auto read = [this](const char* which, std::map<std::string, RateCard>* cards) {
    SqliteRows rows(database_, absl::StrCat("SELECT run_id, ", which,
                                            "(number), rate_card_id, micro_usd_per_hour "
                                            "FROM periods GROUP BY run_id"));
    while (rows.Next()) {
      RateCard& card = (*cards)[rows.Text()];
      rows.Integer();
      card.id = rows.TextOrNull().value_or("");
      card.micro_usd_per_hour = rows.IntegerOrNull().value_or(-1);
    }
    return rows.status();
  };
  std::map<std::string, RateCard> first;
  std::map<std::string, RateCard> last;
  absl::Status status = read("MIN", &first);
  status.Update(read("MAX", &last));
  std::map<std::string, const RateCard*> near;  // by instance
  std::set<std::string> found;                  // runs
  for (StoredRun& run : *runs) {
    const auto own = last.find(run.run_id);
    if (own != last.end()) {
      near[run.instance] = &own->second;
    } else if (run.last_card.known()) {  // the one it started under
      found.insert(run.run_id);
      continue;
    }
    if (near.count(run.instance) == 0) continue;
    run.last_card = *near[run.instance];
    found.insert(run.run_id);
  }
  near.clear();
  for (auto run = runs->rbegin(); run != runs->rend(); ++run) {
    const auto own = first.find(run->run_id);
    if (own != first.end()) {
      near[run->instance] = &own->second;
    } else if (found.count(run->run_id) == 0 && near.count(run->instance) > 0) {
      run->last_card = *near[run->instance];
    }
    run->last_card.machine_share_ppm = run->machine_share_ppm;
  }
  return status;
}

absl::StatusOr<std::map<std::string, RateCard>> UsageReader::RateCards() {
  SqliteRows rows(database_,
                  "SELECT rate_card_id, micro_usd_per_hour, source, valid_from_utc_ns "
                  "FROM rate_cards");
  std::map<std::string, RateCard> cards;
  while (rows.Next()) {
    RateCard card;
    card.id = rows.Text();
    card.micro_usd_per_hour = rows.Integer();
    card.source = rows.Text();
    card.valid_from_utc_ns = rows.Integer();
    cards[card.id] = card;
  }
  if (!rows.status().ok()) return Named(rows.status(), path_);
  return cards;
}

absl::Status UsageReader::ForEachPeriod(
    const std::function<absl::Status(const StoredPeriod&)>& take) {
  SqliteRows rows(database_,
                  "SELECT run_id, number, start_ns, end_ns, utc_start_ns, rate_card_id, "
                  "micro_usd_per_hour, startup_ns, idle_ns, request_ns, overhead_ns, drain_ns, "
                  "unrecorded_ns FROM periods ORDER BY run_id, number");
  ChargesInStep charges(database_);
  while (rows.Next()) {
    StoredPeriod period;
    period.run_id = rows.Text();
    period.number = rows.Integer();
    period.start_ns = rows.Integer();
    period.end_ns = rows.Integer();
    period.utc_start_ns = rows.Integer();
    period.rate_card_id = rows.TextOrNull();
    period.micro_usd_per_hour = rows.IntegerOrNull();
    AccountTotals& accounts = period.accounts;
    for (int64_t* account : {&accounts.startup_ns, &accounts.idle_ns, &accounts.request_ns,
                             &accounts.overhead_ns, &accounts.drain_ns, &accounts.unrecorded_ns}) {
      *account = rows.Integer();
    }
    if (absl::Status status = charges.Take(&period); !status.ok()) return Named(status, path_);
    if (absl::Status status = take(period); !status.ok()) return status;
  }
  absl::Status status = rows.status();
  status.Update(charges.Finish());
  return Named(status, path_);
}

absl::Status UsageReader::ForEachRequest(
    const UtcWindow& ended, const std::function<absl::Status(const StoredRequest&)>& take) {
  SqliteRows rows(database_,
                  absl::StrCat("SELECT ", RequestColumns(),
                               " FROM requests WHERE ended_utc_ns >= ?1 AND ended_utc_ns < ?2 "
                               "ORDER BY sequence"));
  rows.Bind(1, ended.from_ns);
  rows.Bind(2, ended.to_ns);
  while (rows.Next()) {
    if (absl::Status status = take(ReadRequest(&rows)); !status.ok()) return status;
  }
  return Named(rows.status(), path_);
}

absl::StatusOr<std::optional<FoundRequest>> UsageReader::FindRequest(
    const std::string& id, const std::optional<std::string>& tenant) {
  SqliteRows rows(database_,
                  absl::StrCat("SELECT ", RequestColumns(),
                               ", machine_share_ppm, micro_usd_per_hour FROM requests "
                               "JOIN runs USING (run_id) LEFT JOIN rate_cards USING (rate_card_id) "
                               "WHERE (request_id = ?1 OR (caller_id = ?1 AND caller_id != '')) "
                               "AND (?2 OR tenant = ?3) "
                               "ORDER BY request_id = ?1 DESC, sequence DESC LIMIT 1"));
  rows.Bind(1, id);
  rows.Bind(2, tenant.has_value() ? 0 : 1);
  rows.Bind(3, tenant.value_or(""));
  if (!rows.Next()) {
    if (!rows.status().ok()) return Named(rows.status(), path_);
    return std::nullopt;
  }
  FoundRequest found;
  found.request = ReadRequest(&rows);
  found.card.id = found.request.rate_card_id.value_or("");
  found.card.machine_share_ppm = rows.Integer();
  found.card.micro_usd_per_hour = rows.IntegerOrNull().value_or(-1);
  return found;
}

absl::StatusOr<std::optional<std::vector<StoredDay>>> UsageReader::Days() {
  if (version_ < 2) return std::nullopt;
  std::vector<StoredDay> days;
  SqliteRows rows(database_,
                  "SELECT tenant, day, spent_nanousd, (SELECT coalesce(sum(cut_off_nanousd), 0) "
                  "FROM budget_holds AS h WHERE h.tenant = d.tenant AND h.day = d.day) "
                  "FROM tenant_days AS d ORDER BY tenant, day");
  while (rows.Next()) {
    StoredDay& day = days.emplace_back();
    day.tenant = rows.Text();
    day.day = rows.Integer();
    day.spent_nanousd = rows.Integer();
    day.cut_off_nanousd = rows.Integer();
  }
  if (!rows.status().ok()) return Named(rows.status(), path_);
  return days;
}

absl::StatusOr<int64_t> UsageReader::RemovedRequests() {
  SqliteRows rows(database_,
                  "SELECT COALESCE((SELECT MIN(sequence) - 1 FROM requests), "
                  "(SELECT seq FROM sqlite_sequence WHERE name = 'requests'), 0)");
  if (!rows.Next()) return Named(rows.status(), path_);
  return rows.Integer();
}

Usage UsageOf(const StoredRequest& row) {
  Usage usage;
  usage.prompt_tokens = row.prompt_tokens;
  usage.cached_tokens = row.cached_tokens;
  usage.completion_tokens = row.completion_tokens;
  usage.queue_ns = row.queue_ns;
  usage.prefill_ns = row.prefill_time_ns;
  usage.decode_ns = row.decode_time_ns;
  usage.total_ns = row.total_ns;
  usage.time_to_first_token_ns = row.time_to_first_token_ns;
  usage.steps = static_cast<int32_t>(row.steps);
  usage.preemptions = static_cast<int32_t>(row.preemptions);
  usage.mean_requests_per_step = row.mean_requests_per_step;
  return usage;
}

Cost CostOf(const StoredRequest& row) {
  Cost cost;
  cost.machine_ns = row.machine_ns;
  cost.shared_ns = row.shared_ns;
  cost.own_ns = row.own_ns;
  cost.prefill_ns = row.prefill_ns;
  cost.decode_ns = row.decode_ns;
  cost.has_rate = row.cost_nanousd.has_value();
  cost.cost_nanousd = row.cost_nanousd.value_or(0);
  cost.rate_card_id = row.rate_card_id.value_or("");
  cost.written_off = row.written_off;
  cost.has_reference = row.reference_nanousd.has_value();
  cost.reference_nanousd = row.reference_nanousd.value_or(0);
  cost.reference_id = row.reference_id.value_or("");
  cost.replay_of = row.replay_of.value_or("");
  return cost;
}

}  // namespace tuppence
