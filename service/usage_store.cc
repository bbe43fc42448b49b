#include "service/usage_store.h"

#include <sqlite3.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "model/check.h"
#include "service/outcome.h"
#include "service/sqlite_rows.h"
#include "service/sqlite_statement.h"
#include "service/sqlite_transaction.h"
#include "service/store_lock.h"
#include "service/usage_schema.h"
#include "service/version.h"

namespace tuppence {
namespace {

constexpr int kRemovedAtOnce = 500;  // rows: some milliseconds that a closing message may wait
constexpr int64_t kRemoveAgainNs = 250'000'000;
constexpr int64_t kRemoveEveryNs = 60'000'000'000;

constexpr char kInsertRow[] = R"sql(
INSERT INTO requests (request_id, caller_id, run_id, tenant, model, received_utc_ns, ended_utc_ns,
  ended_ns, outcome, code, prompt_tokens, cached_tokens, completion_tokens, queue_ns,
  prefill_time_ns, decode_time_ns, total_ns, time_to_first_token_ns, steps, preemptions,
  mean_requests_per_step, kv_block_seconds, machine_ns, shared_ns, own_ns, prefill_ns, decode_ns,
  unrecorded_ns, written_off, cost_nanousd, rate_card_id, reference_nanousd, reference_id,
  replay_of)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,
  ?, ?, ?) ON CONFLICT (request_id) DO NOTHING)sql";

constexpr char kInsertPeriod[] = R"sql(
INSERT INTO periods (run_id, number, start_ns, end_ns, utc_start_ns, rate_card_id,
  micro_usd_per_hour, startup_ns, idle_ns, request_ns, overhead_ns, drain_ns, unrecorded_ns)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING)sql";

constexpr char kInsertCharges[] = R"sql(
INSERT INTO period_charges (run_id, number, tenant, model, request_ns, open_ns, written_off_ns,
  lost_ns) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING)sql";

constexpr char kInsertRateCard[] = R"sql(
INSERT INTO rate_cards (rate_card_id, micro_usd_per_hour, source, valid_from_utc_ns)
VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING)sql";

// There and back: a page is written although nothing has changed in the end. SQLite writes none for
// a value that is there already.
constexpr char kTrial[] = "UPDATE runs SET ended_ns = ? WHERE run_id = ?";

// A run that is not ours and has not ended was killed. It lived at least until its last sign, its
// last period's end, its last row: rows become durable in the order of `sequence`, near enough.
constexpr char kCloseKilledRuns[] = R"sql(
UPDATE runs SET ended_ns = max(started_ns, CASE WHEN run_id = ? THEN ? ELSE 0 END,
  coalesce((SELECT max(end_ns) FROM periods WHERE periods.run_id = runs.run_id), 0),
  coalesce((SELECT max(late.ended_ns) FROM
    (SELECT run_id, ended_ns FROM requests ORDER BY sequence DESC LIMIT 1000) AS late
    WHERE late.run_id = runs.run_id), 0))
WHERE ended_ns IS NULL)sql";
constexpr char kDateKilledRuns[] =
    "UPDATE runs SET ended_utc_ns = started_utc_ns + (ended_ns - started_ns) "
    "WHERE ended_utc_ns IS NULL AND ended_ns IS NOT NULL";

constexpr char kInsertRun[] = R"sql(
INSERT INTO runs (run_id, instance, boot_id, version, model, arithmetic_id, machine_share_ppm,
  started_ns, started_utc_ns, start_rate_card_id, start_micro_usd_per_hour)
VALUES (?, ?, ?, ?, '', '', ?, ?, ?, ?, ?))sql";
constexpr char kNameModel[] = "UPDATE runs SET model = ?, arithmetic_id = ? WHERE run_id = ?";
constexpr char kEndRun[] =
    "UPDATE runs SET ended_ns = ?1, ended_utc_ns = started_utc_ns + (?1 - started_ns) "
    "WHERE run_id = ?2";

constexpr char kRemoveRows[] =
    "DELETE FROM requests WHERE sequence IN "
    "(SELECT sequence FROM requests WHERE ended_utc_ns < ? ORDER BY ended_utc_ns LIMIT ?)";
constexpr char kRemoveCharges[] =
    "DELETE FROM period_charges WHERE (run_id, number) IN "
    "(SELECT run_id, number FROM periods WHERE utc_start_ns < ? ORDER BY utc_start_ns LIMIT ?)";
constexpr char kRemovePeriods[] =
    "DELETE FROM periods WHERE (run_id, number) IN "
    "(SELECT run_id, number FROM periods WHERE utc_start_ns < ? ORDER BY utc_start_ns LIMIT ?)";
// Without its periods a run would look like time that was never booked.
constexpr char kRemoveRuns[] =
    "DELETE FROM runs WHERE ended_utc_ns < ? AND "
    "NOT EXISTS (SELECT 1 FROM periods WHERE periods.run_id = runs.run_id)";

std::string MakeRunId() {
  std::random_device draw;
  return absl::StrFormat("%08x%08x%08x%08x", draw(), draw(), draw(), draw());
}

// The kernel's; monotonic times compare within one boot.
std::string BootId() {
  std::string id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> id;
  return id;
}

std::string HostName() {
  char name[256] = {};
  gethostname(name, sizeof(name) - 1);
  return name;
}

}  // namespace

struct UsageStore::Statements {
  SqliteStatement row, period, charges, rate_card, trial;
};

UsageStore::UsageStore(const StoreOptions& options, const StoreRun& run,
                       std::unique_ptr<StoreLock> lock)
    : options_(options),
      run_(run),
      run_id_(MakeRunId()),
      lock_(std::move(lock)),
      statements_(std::make_unique<Statements>()),
      budgets_(std::make_unique<BudgetStore>()),
      keys_(std::make_unique<KeyStore>()),
      checkpoint_at_pages_(options.checkpoint_pages) {}

UsageStore::~UsageStore() {
  statements_.reset();
  budgets_.reset();
  keys_.reset();
  sqlite3_close(database_);
}

absl::StatusOr<std::unique_ptr<UsageStore>> UsageStore::Open(const StoreOptions& options,
                                                             const StoreRun& run,
                                                             const Clock* clock) {
  auto lock = StoreLock::Take(options.path, clock);
  if (!lock.ok()) return lock.status();
  std::unique_ptr<UsageStore> store(new UsageStore(options, run, *std::move(lock)));
  absl::Status status = store->OpenFile();
  if (status.ok()) status = store->CheckIsOurs();
  if (status.ok()) status = store->Migrate();
  if (status.ok()) status = store->Prepare();
  if (status.ok()) status = store->BeginRun();
  if (!status.ok()) return status;
  store->lock_->StartSigns(store->run_id_);
  return store;
}

absl::Status UsageStore::OpenFile() {
  const int code = sqlite3_open_v2(
      options_.path.c_str(), &database_,
      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE,
      options_.vfs.empty() ? nullptr : options_.vfs.c_str());
  if (code != SQLITE_OK) return Failure();
  sqlite3_busy_timeout(database_, kSqliteBusyMs);
  return absl::OkStatus();
}

absl::Status UsageStore::CheckIsOurs() {
  const absl::StatusOr<int64_t> application = Number("PRAGMA application_id");
  if (!application.ok()) {
    if (sqlite3_errcode(database_) != SQLITE_NOTADB) return application.status();
    return Refused("is not a usage store, nor any other SQLite database",
                   "give --usage-store the path of a store, or of a file that does not exist yet");
  }
  const absl::StatusOr<int64_t> version = Number("PRAGMA user_version");
  const absl::StatusOr<int64_t> tables = Number("SELECT count(*) FROM sqlite_schema");
  if (!version.ok()) return version.status();
  if (!tables.ok()) return tables.status();
  if (*application != kUsageApplicationId && (*version != 0 || *tables != 0)) {
    return Refused("is another program's database",
                   "give --usage-store the path of a store, or of a file that does not exist yet");
  }
  if (*version > kUsageSchemaVersion) {
    return Refused(absl::StrCat("has schema version ", *version,
                                ", made by a newer tuppence; this "
                                "is tuppence ",
                                kVersion, ", which knows versions up to ", kUsageSchemaVersion),
                   "run the newer program, or give --usage-store a new file");
  }
  return absl::OkStatus();
}

absl::Status UsageStore::Migrate() {
  // FULL: every commit is an fsync of the log. The log is moved into the file by Tidy.
  for (const char* sql : {"PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL",
                          "PRAGMA wal_autocheckpoint = 0"}) {
    if (absl::Status status = Execute(sql); !status.ok()) return status;
  }
  // What the log holds may be there by the page cache's grace alone, where the process before us
  // died at a disk that had failed to sync. Nothing new is put behind it.
  const int moved =
      sqlite3_wal_checkpoint_v2(database_, nullptr, SQLITE_CHECKPOINT_TRUNCATE, nullptr, nullptr);
  if (moved != SQLITE_OK && moved != SQLITE_BUSY) return Failure();
  const absl::StatusOr<int64_t> found = Number("PRAGMA user_version");
  if (!found.ok()) return found.status();
  if (*found == kUsageSchemaVersion) return absl::OkStatus();
  return InTransaction([&] {
    absl::Status status;
    for (int64_t version = *found; version < kUsageSchemaVersion && status.ok(); ++version) {
      status = Execute(kUsageMigrations[version]);
    }
    if (!status.ok()) return status;
    return Execute(absl::StrCat("PRAGMA user_version = ", kUsageSchemaVersion,
                                "; PRAGMA application_id = ", kUsageApplicationId)
                       .c_str());
  });
}

absl::Status UsageStore::Prepare() {
  sqlite3_wal_hook(
      database_,
      [](void* pages, sqlite3*, const char*, int log_pages) {
        *static_cast<int*>(pages) = log_pages;
        return SQLITE_OK;
      },
      &log_pages_);
  Statements& s = *statements_;
  for (const auto& [statement, sql] :
       {std::pair{&s.row, kInsertRow}, std::pair{&s.period, kInsertPeriod},
        std::pair{&s.charges, kInsertCharges}, std::pair{&s.rate_card, kInsertRateCard},
        std::pair{&s.trial, kTrial}}) {
    if (statement->Prepare(database_, sql) != SQLITE_OK) return Failure();
  }
  return Done(budgets_->Prepare(database_) && keys_->Prepare(database_));
}

absl::Status UsageStore::BeginRun() {
  SqliteStatement close, date, begin;
  if (close.Prepare(database_, kCloseKilledRuns) != SQLITE_OK ||
      date.Prepare(database_, kDateKilledRuns) != SQLITE_OK ||
      begin.Prepare(database_, kInsertRun) != SQLITE_OK) {
    return Failure();
  }
  const SignOfLife& last = lock_->previous();
  const std::string instance = run_.instance.empty() ? HostName() : run_.instance;
  const std::string boot_id = BootId();
  return InTransaction([&] {
    close << last.run_id << last.alive_ns;
    if (!close.Run() || !date.Run() || !budgets_->PostCutOff(run_id_)) return Failure();
    const RateCard& card = run_.rate_card;
    begin << run_id_ << instance << boot_id << run_.version << card.machine_share_ppm
          << run_.started_ns << run_.started_utc_ns;
    begin.If(card.known(), card.id).If(card.known(), card.micro_usd_per_hour);
    return Done(begin.Run() && WriteCard(card));
  });
}

absl::Status UsageStore::NameModel(const std::string& model, const std::string& arithmetic_id) {
  model_ = model;
  SqliteStatement name;
  if (name.Prepare(database_, kNameModel) != SQLITE_OK) return Failure();
  return InTransaction([&] {
    name << model << arithmetic_id << run_id_;
    return Done(name.Run());
  });
}

absl::Status UsageStore::Write(std::span<const EndedRequest> ended, std::span<const Period> periods,
                               const HoldChanges& holds) {
  int moved = 0;
  sqlite3_file_control(database_, nullptr, SQLITE_FCNTL_HAS_MOVED, &moved);
  if (moved != 0) {
    return absl::UnavailableError(absl::StrCat(
        "usage store ", options_.path,
        ": the file was moved or deleted under the running service; put it back, or restart"));
  }
  return InTransaction([&] {
    if (!budgets_->Change(holds, run_id_)) return Failure();
    for (const EndedRequest& one : ended) {
      if (absl::Status status = WriteRow(one.row); !status.ok()) return status;
    }
    for (const Period& period : periods) {
      if (absl::Status status = WritePeriod(period); !status.ok()) return status;
    }
    // What is gone may never have been there, and taking it away then writes nothing: on a full
    // disk that would pass for a commit.
    if (!ended.empty() || !periods.empty() || !holds.made.empty()) return absl::OkStatus();
    SqliteStatement& trial = statements_->trial;
    trial << int64_t{0} << run_id_;
    if (!trial.Run()) return Failure();
    trial.If(false, int64_t{0}) << run_id_;
    return Done(trial.Run());
  });
}

absl::Status UsageStore::WriteRow(const RequestRow& row) {
  CHECK(!row.unrecorded);
  const Usage& usage = row.usage;
  const Cost& cost = row.cost;
  SqliteStatement& insert = statements_->row;
  insert << row.id << row.caller_id << run_id_ << row.tenant << model_ << row.received_utc_ns
         << row.ended_utc_ns << row.ended_ns << OutcomeOf(row.reason) << static_cast<int>(row.code)
         << usage.prompt_tokens << usage.cached_tokens << usage.completion_tokens << usage.queue_ns
         << usage.prefill_ns << usage.decode_ns << usage.total_ns << usage.time_to_first_token_ns
         << usage.steps << usage.preemptions << usage.mean_requests_per_step << row.kv_block_seconds
         << cost.machine_ns << cost.shared_ns << cost.own_ns << cost.prefill_ns << cost.decode_ns
         << row.unrecorded_ns << row.written_off;
  insert.If(cost.has_rate, cost.cost_nanousd)
      .If(cost.has_rate, cost.rate_card_id)
      .If(cost.has_reference, cost.reference_nanousd)
      .If(cost.has_reference, cost.reference_id)
      .If(!cost.replay_of.empty(), cost.replay_of);
  if (!insert.Run()) return Failure();
  return Done(budgets_->Post(row, /*is_new=*/sqlite3_changes(database_) > 0) &&
              keys_->Insert(row, run_id_));
}

absl::StatusOr<std::vector<DaySpend>> UsageStore::SpendOfMonth(int64_t utc_ns) {
  std::vector<DaySpend> spend;
  if (!budgets_->ReadSpend(utc_ns, &spend)) return Failure();
  return spend;
}

bool UsageStore::WriteCard(const RateCard& card) {
  if (!card.known()) return true;
  statements_->rate_card << card.id << card.micro_usd_per_hour << card.source
                         << card.valid_from_utc_ns;
  return statements_->rate_card.Run();
}

absl::Status UsageStore::WritePeriod(const Period& period) {
  const RateCard& card = period.rate_card;
  if (!WriteCard(card)) return Failure();
  const AccountTotals& accounts = period.accounts;
  SqliteStatement& insert = statements_->period;
  insert << run_id_ << period.number << period.start_ns << period.end_ns << period.utc_start_ns;
  insert.If(card.known(), card.id).If(card.known(), card.micro_usd_per_hour);
  insert << accounts.startup_ns << accounts.idle_ns << accounts.request_ns << accounts.overhead_ns
         << accounts.drain_ns << accounts.unrecorded_ns;
  if (!insert.Run()) return Failure();
  for (const TenantCharges& charges : period.tenants) {
    statements_->charges << run_id_ << period.number << charges.tenant << model_
                         << charges.request_ns << charges.open_ns << charges.written_off_ns
                         << charges.lost_ns;
    if (!statements_->charges.Run()) return Failure();
  }
  return absl::OkStatus();
}

absl::Status UsageStore::EndRun(int64_t ended_ns) {
  SqliteStatement end;
  if (end.Prepare(database_, kEndRun) != SQLITE_OK) return Failure();
  return InTransaction([&] {
    end << ended_ns << run_id_;
    return Done(end.Run());
  });
}

// Errors are for the next Write to meet: what is tidied late is tidied all the same.
void UsageStore::Tidy(int64_t now_ns, int64_t utc_now_ns) {
  if (log_pages_ >= checkpoint_at_pages_) {
    int pages = 0, moved = 0;
    sqlite3_wal_checkpoint_v2(database_, nullptr, SQLITE_CHECKPOINT_PASSIVE, &pages, &moved);
    // A reader may need the rest of the log; then not again before it has grown by as much.
    checkpoint_at_pages_ = options_.checkpoint_pages + (moved == pages ? 0 : log_pages_);
    log_pages_ = 0;
  }
  if (now_ns < next_removal_ns_) return;
  next_removal_ns_ = now_ns + kRemoveEveryNs;
  [[maybe_unused]] const absl::Status removed = Remove(now_ns, utc_now_ns);
}

absl::Status UsageStore::Remove(int64_t now_ns, int64_t utc_now_ns) {
  const int64_t rows_before_ns = utc_now_ns - options_.keep_requests_days * kDayNs;
  const int64_t periods_before_ns = utc_now_ns - kKeepPeriodsDays * kDayNs;
  const absl::StatusOr<int64_t> old = Number(
      absl::StrCat("SELECT EXISTS (SELECT 1 FROM requests WHERE ended_utc_ns < ", rows_before_ns,
                   ") OR EXISTS (SELECT 1 FROM periods WHERE utc_start_ns < ", periods_before_ns,
                   ") OR EXISTS (SELECT 1 FROM runs WHERE ended_utc_ns < ", periods_before_ns,
                   ") OR EXISTS (SELECT 1 FROM tenant_days WHERE day < ", DayOf(periods_before_ns),
                   ")")
          .c_str());
  if (!old.ok() || *old == 0) return old.status();
  SqliteStatement rows, charges, periods, runs;
  if (rows.Prepare(database_, kRemoveRows) != SQLITE_OK ||
      charges.Prepare(database_, kRemoveCharges) != SQLITE_OK ||
      periods.Prepare(database_, kRemovePeriods) != SQLITE_OK ||
      runs.Prepare(database_, kRemoveRuns) != SQLITE_OK) {
    return Failure();
  }
  return InTransaction([&] {
    rows << rows_before_ns << kRemovedAtOnce;
    if (!rows.Run()) return Failure();
    int most = sqlite3_changes(database_);
    if (!keys_->Remove(rows_before_ns, kRemovedAtOnce)) return Failure();
    most = std::max(most, sqlite3_changes(database_));
    charges << periods_before_ns << kRemovedAtOnce;
    if (!charges.Run()) return Failure();
    periods << periods_before_ns << kRemovedAtOnce;
    if (!periods.Run()) return Failure();
    most = std::max(most, sqlite3_changes(database_));
    if (most == kRemovedAtOnce) {  // there is more
      next_removal_ns_ = now_ns + kRemoveAgainNs;
      return absl::OkStatus();
    }
    runs << periods_before_ns;
    return Done(runs.Run() && budgets_->Remove(periods_before_ns));
  });
}

int64_t UsageStore::BytesFree() const {
  struct statvfs disk;
  if (statvfs(options_.path.c_str(), &disk) != 0) return -1;
  return static_cast<int64_t>(disk.f_bavail) * static_cast<int64_t>(disk.f_frsize);
}

absl::Status UsageStore::Execute(const char* sql) {
  return Done(sqlite3_exec(database_, sql, nullptr, nullptr, nullptr) == SQLITE_OK);
}

absl::StatusOr<int64_t> UsageStore::Number(const char* sql) {
  sqlite3_stmt* select = nullptr;
  int64_t number = 0;
  int code = sqlite3_prepare_v2(database_, sql, -1, &select, nullptr);
  if (code == SQLITE_OK) code = sqlite3_step(select);
  if (code == SQLITE_ROW) number = sqlite3_column_int64(select, 0);
  const absl::Status status = Done(code == SQLITE_ROW);
  sqlite3_finalize(select);
  if (!status.ok()) return status;
  return number;
}

absl::Status UsageStore::InTransaction(const std::function<absl::Status()>& body) {
  return InSqliteTransaction(
      database_, [this](const char* sql) { return Execute(sql); }, body);
}

absl::Status UsageStore::Failure() const {
  const int code = sqlite3_extended_errcode(database_);
  std::string what = sqlite3_errmsg(database_);
  const char* way_out = "check the disk and the file's permissions";
  if ((code & 0xff) == SQLITE_FULL) {
    what = "the disk is full";
    way_out = "free space on its file system";
  } else if (const int system = sqlite3_system_errno(database_); system != 0) {
    absl::StrAppend(&what, " (code ", code, ": ", std::strerror(system), ")");
  } else {
    absl::StrAppend(&what, " (code ", code, ")");
  }
  return absl::UnavailableError(
      absl::StrCat("usage store ", options_.path, ": ", what, "; ", way_out));
}

absl::Status UsageStore::Refused(const std::string& found, const std::string& way_out) const {
  return absl::FailedPreconditionError(
      absl::StrCat("usage store ", options_.path, " ", found, "; ", way_out));
}

}  // namespace tuppence
