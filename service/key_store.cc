#include "service/key_store.h"

#include <sqlite3.h>

#include "absl/strings/str_cat.h"
#include "service/outcome.h"
#include "service/sqlite_rows.h"

namespace tuppence {
namespace {

constexpr char kInsert[] = R"sql(
INSERT INTO answer_keys (tenant, name, request_sha256, seed, request_id, run_id, received_utc_ns,
  outcome) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING)sql";
constexpr char kRemove[] =
    "DELETE FROM answer_keys WHERE (tenant, name) IN (SELECT tenant, name FROM answer_keys "
    "WHERE received_utc_ns < ? ORDER BY received_utc_ns LIMIT ?)";
constexpr char kFind[] = R"sql(
SELECT request_id, request_sha256, seed, received_utc_ns, outcome, model, arithmetic_id
  FROM answer_keys JOIN runs USING (run_id) WHERE tenant = ? AND name = ?)sql";

}  // namespace

bool KeyStore::Prepare(sqlite3* database) {
  return insert_.Prepare(database, kInsert) == SQLITE_OK &&
         remove_.Prepare(database, kRemove) == SQLITE_OK;
}

bool KeyStore::Insert(const RequestRow& row, const std::string& run_id) {
  if (row.key == nullptr || row.code != absl::StatusCode::kOk) return true;
  insert_ << row.tenant << row.key->name << row.key->request_sha256 << row.key->seed << row.id
          << run_id << row.received_utc_ns << OutcomeOf(row.reason);
  return insert_.Run();
}

bool KeyStore::Remove(int64_t before_utc_ns, int most) {
  remove_ << before_utc_ns << most;
  return remove_.Run();
}

KeyReader::~KeyReader() { sqlite3_close(database_); }

absl::StatusOr<std::optional<FirstRequest>> KeyReader::Find(const std::string& tenant,
                                                            const std::string& name) {
  absl::MutexLock lock(&mutex_);
  const auto failure = [this](absl::string_view why) {
    return absl::UnavailableError(absl::StrCat(
        "whether this idempotency key was used before cannot be told, for the usage store ", path_,
        " cannot be read: ", why, "; try again, or leave the key out"));
  };
  if (database_ == nullptr) {
    const int code = sqlite3_open_v2(path_.c_str(), &database_,
                                     SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, nullptr);
    if (code != SQLITE_OK) {
      const absl::Status status = failure(sqlite3_errmsg(database_));
      sqlite3_close(database_);
      database_ = nullptr;
      return status;
    }
    sqlite3_busy_timeout(database_, kSqliteBusyMs);
  }
  SqliteRows rows(database_, kFind);
  rows.Bind(1, tenant);
  rows.Bind(2, name);
  if (!rows.Next()) {
    if (!rows.status().ok()) return failure(rows.status().message());
    return std::nullopt;
  }
  FirstRequest first;
  first.request_id = rows.Text();
  first.request_sha256 = rows.Text();
  first.seed = static_cast<uint64_t>(rows.Integer());
  first.received_utc_ns = rows.Integer();
  first.outcome = rows.Text();
  first.model = rows.Text();
  first.arithmetic_id = rows.Text();
  return first;
}

}  // namespace tuppence
