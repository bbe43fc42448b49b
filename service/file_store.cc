#include "service/file_store.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <random>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "scheduler/refusal.h"
#include "service/rpc_status.h"
#include "service/sqlite_rows.h"
#include "service/sqlite_statement.h"
#include "service/sqlite_transaction.h"

namespace tuppence {
namespace {

constexpr int kSchemaVersion = 2;

constexpr char kSchema1[] = R"sql(
CREATE TABLE files (
  sequence        INTEGER PRIMARY KEY AUTOINCREMENT,
  id              TEXT NOT NULL UNIQUE,
  tenant          TEXT NOT NULL,
  purpose         TEXT NOT NULL,
  filename        TEXT NOT NULL,
  bytes           INTEGER NOT NULL,
  lines           INTEGER NOT NULL,
  created_unix_seconds INTEGER NOT NULL
) STRICT;
CREATE INDEX files_by_tenant ON files (tenant, sequence);
CREATE TABLE batches (
  sequence        INTEGER PRIMARY KEY AUTOINCREMENT,
  id              TEXT NOT NULL UNIQUE,
  tenant          TEXT NOT NULL,
  active          INTEGER NOT NULL,  -- 1: there is work left
  record          TEXT NOT NULL      -- JSON
) STRICT;
CREATE INDEX batches_by_tenant ON batches (tenant, sequence);
CREATE INDEX batches_active ON batches (sequence) WHERE active = 1;
PRAGMA user_version = 1;
)sql";

// Files of before stay until they are deleted: nobody was told otherwise.
constexpr char kSchema2[] = R"sql(
ALTER TABLE files ADD COLUMN expires_unix_seconds INTEGER NOT NULL DEFAULT 0;
ALTER TABLE files ADD COLUMN key_name TEXT;       -- the caller's Idempotency-Key; null: none
ALTER TABLE files ADD COLUMN key_sha256 TEXT;     -- of what was asked under it
ALTER TABLE batches ADD COLUMN key_name TEXT;
ALTER TABLE batches ADD COLUMN key_sha256 TEXT;
CREATE INDEX files_by_expiry ON files (expires_unix_seconds) WHERE expires_unix_seconds > 0;
CREATE UNIQUE INDEX files_by_key ON files (tenant, key_name) WHERE key_name IS NOT NULL;
CREATE UNIQUE INDEX batches_by_key ON batches (tenant, key_name) WHERE key_name IS NOT NULL;
PRAGMA user_version = 2;
)sql";

constexpr char kFileColumns[] =
    "id, tenant, purpose, filename, bytes, lines, created_unix_seconds, expires_unix_seconds";

StoredFile ReadFile(SqliteRows* rows) {
  StoredFile file;
  file.id = rows->Text();
  file.tenant = rows->Text();
  file.purpose = rows->Text();
  file.filename = rows->Text();
  file.bytes = rows->Integer();
  file.lines = rows->Integer();
  file.created_unix_seconds = rows->Integer();
  file.expires_unix_seconds = rows->Integer();
  return file;
}

StoredBatch ReadBatch(SqliteRows* rows) {
  StoredBatch batch;
  batch.id = rows->Text();
  batch.tenant = rows->Text();
  batch.active = rows->Integer() != 0;
  batch.record = rows->Text();
  return batch;
}

// "SELECT ... WHERE tenant = ?1 ... ", one row more than the page has.
std::string PageSql(const char* columns, const char* table, const PageAsk& ask) {
  const char* past = ask.newest_first ? "<" : ">";
  return absl::StrCat("SELECT ", columns, " FROM ", table,
                      " WHERE tenant = ?1 AND (?2 = '' OR sequence ", past,
                      " (SELECT sequence FROM ", table, " WHERE tenant = ?1 AND id = ?2))",
                      ask.purpose.empty() ? "" : " AND purpose = ?4", " ORDER BY sequence ",
                      ask.newest_first ? "DESC" : "ASC", " LIMIT ?3");
}

void BindPage(const std::string& tenant, const PageAsk& ask, SqliteRows* rows) {
  rows->Bind(1, tenant);
  rows->Bind(2, ask.after);
  rows->Bind(3, ask.limit + 1);
  if (!ask.purpose.empty()) rows->Bind(4, ask.purpose);
}

template <typename Item, typename Read>
Page<Item> TakePage(int64_t limit, SqliteRows* rows, const Read& read) {
  Page<Item> page;
  while (rows->Next()) {
    page.has_more = static_cast<int64_t>(page.items.size()) == limit;
    if (page.has_more) break;
    page.items.push_back(read(rows));
  }
  return page;
}

}  // namespace

absl::StatusOr<std::unique_ptr<FileStore>> FileStore::Open(const std::string& folder,
                                                           int64_t bytes_max,
                                                           int64_t keep_seconds) {
  const auto failure = [&folder](const char* what) {
    return absl::UnavailableError(absl::StrCat("--files-dir ", folder, ": ", what, ": ",
                                               std::strerror(errno),
                                               "; give a folder that this user may write"));
  };
  if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) return failure("cannot be made");
  const int lock = open((folder + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock < 0) return failure("cannot be written");
  std::unique_ptr<FileStore> store(new FileStore(folder, bytes_max, keep_seconds, lock));
  if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
    return absl::AlreadyExistsError(
        absl::StrCat("--files-dir ", folder,
                     ": another process has it; stop that one, or give a folder of its own"));
  }
  if (absl::Status status = store->OpenDatabase(); !status.ok()) return status;
  return store;
}

FileStore::~FileStore() {
  sqlite3_close(database_);
  close(lock_);
}

std::string FileStore::DrawId(const char* prefix) {
  std::random_device draw;
  return absl::StrFormat("%s%08x%08x%08x%08x", prefix, draw(), draw(), draw(), draw());
}

absl::Status FileStore::OpenDatabase() {
  absl::MutexLock lock(&mutex_);
  const std::string path = folder_ + "/files.db";
  const mode_t mask = umask(0077);
  const int code =
      sqlite3_open_v2(path.c_str(), &database_,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  absl::Status status = code == SQLITE_OK ? absl::OkStatus() : Failure();
  sqlite3_busy_timeout(database_, kSqliteBusyMs);
  for (const char* sql : {"PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL"}) {
    if (status.ok()) status = Execute(sql);
  }
  umask(mask);
  if (!status.ok()) return status;
  int64_t version = 0;
  {
    SqliteRows rows(database_, "PRAGMA user_version");
    if (!rows.Next()) return Failure();
    version = rows.Integer();
  }
  if (version > kSchemaVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("--files-dir ", folder_, ": was made by a newer tuppence (version ", version,
                     ", this one knows ", kSchemaVersion, "); run that, or give another folder"));
  }
  if (version == kSchemaVersion) return absl::OkStatus();
  return InTransaction([this, version]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    const absl::Status first = version < 1 ? Execute(kSchema1) : absl::OkStatus();
    return first.ok() ? Execute(kSchema2) : first;
  });
}

absl::Status FileStore::TakeBytes(int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  if (bytes_ + bytes <= bytes_max_) {
    bytes_ += bytes;
    return absl::OkStatus();
  }
  return RefusalStatus(
      absl::StatusCode::kResourceExhausted,
      absl::StrCat("all files together have ", bytes_, " bytes, and ", bytes_max_,
                   " are allowed (--files-bytes-max); delete files that are not needed"),
      Because(reason::kFilesFull));
}

void FileStore::GiveBack(int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  bytes_ -= bytes;
}

int64_t FileStore::bytes() const {
  absl::MutexLock lock(&mutex_);
  return bytes_;
}

int64_t FileStore::ExpiryOf(int64_t created_unix_seconds, int64_t asked_seconds) const {
  int64_t seconds = asked_seconds > 0 ? asked_seconds : keep_seconds_;
  if (keep_seconds_ > 0) seconds = std::min(seconds, keep_seconds_);
  return seconds > 0 ? created_unix_seconds + seconds : 0;
}

absl::StatusOr<StoredFile> FileStore::Add(const StoredFile& file) {
  absl::MutexLock lock(&mutex_);
  const auto made = FindMade(file);
  if (!made.ok()) return made.status();
  if (made->has_value()) return **made;
  absl::Status status = CountFiles();
  if (status.ok()) status = Insert(file);
  if (!status.ok()) return status;
  return file;
}

absl::StatusOr<std::optional<StoredFile>> FileStore::FindMade(const StoredFile& file) {
  if (file.key.name.empty()) return std::nullopt;
  SqliteRows rows(database_, absl::StrCat("SELECT ", kFileColumns,
                                          ", key_sha256 FROM files WHERE tenant = ? AND "
                                          "key_name = ?"));
  rows.Bind(1, file.tenant);
  rows.Bind(2, file.key.name);
  if (rows.Next()) {
    const StoredFile made = ReadFile(&rows);
    if (rows.Text() != file.key.sha256) return KeyReused();
    return made;
  }
  if (!rows.status().ok()) return Failure();
  return std::nullopt;
}

absl::Status FileStore::CountFiles() {
  SqliteRows count(database_, "SELECT count(*) FROM files");
  if (!count.Next()) return Failure();
  if (count.Integer() >= kFilesMax) {
    return RefusalStatus(absl::StatusCode::kResourceExhausted,
                         absl::StrCat("there are ", kFilesMax,
                                      " files, as many as may be; delete some that are not needed"),
                         Because(reason::kFilesFull));
  }
  return absl::OkStatus();
}

absl::Status FileStore::Insert(const StoredFile& file) {
  SqliteStatement insert;
  if (insert.Prepare(database_, absl::StrCat("INSERT INTO files (", kFileColumns,
                                             ", key_name, key_sha256) VALUES (?, ?, ?, ?, ?, ?, "
                                             "?, ?, ?, ?)")
                                    .c_str()) != SQLITE_OK) {
    return Failure();
  }
  insert << file.id << file.tenant << file.purpose << file.filename << file.bytes << file.lines
         << file.created_unix_seconds << file.expires_unix_seconds;
  const bool has_key = !file.key.name.empty();
  insert.If(has_key, file.key.name).If(has_key, file.key.sha256);
  return insert.Run() ? absl::OkStatus() : Failure();
}

absl::StatusOr<std::optional<StoredFile>> FileStore::Find(const std::string& tenant,
                                                          const std::string& id) {
  absl::MutexLock lock(&mutex_);
  SqliteRows rows(database_,
                  absl::StrCat("SELECT ", kFileColumns, " FROM files WHERE tenant = ? AND id = ?"));
  rows.Bind(1, tenant);
  rows.Bind(2, id);
  if (rows.Next()) return ReadFile(&rows);
  if (!rows.status().ok()) return Failure();
  return std::nullopt;
}

absl::StatusOr<Page<StoredFile>> FileStore::List(const std::string& tenant, const PageAsk& ask) {
  absl::MutexLock lock(&mutex_);
  SqliteRows rows(database_, PageSql(kFileColumns, "files", ask));
  BindPage(tenant, ask, &rows);
  auto page = TakePage<StoredFile>(ask.limit, &rows, ReadFile);
  if (!rows.status().ok()) return Failure();
  return page;
}

absl::StatusOr<bool> FileStore::Delete(const std::string& tenant, const std::string& id) {
  absl::MutexLock lock(&mutex_);
  SqliteRows removed(database_, "DELETE FROM files WHERE tenant = ? AND id = ? RETURNING bytes");
  removed.Bind(1, tenant);
  removed.Bind(2, id);
  std::optional<int64_t> bytes;
  while (removed.Next()) bytes = removed.Integer();  // to its end, which is when it counts
  if (!removed.status().ok()) return Failure();
  if (!bytes.has_value()) return false;
  unlink(PathOf(id).c_str());  // who reads it now still has it
  bytes_ -= *bytes;
  return true;
}

absl::StatusOr<std::vector<StoredFile>> FileStore::Expired(int64_t unix_seconds) {
  absl::MutexLock lock(&mutex_);
  SqliteRows rows(database_, absl::StrCat("SELECT ", kFileColumns,
                                          " FROM files WHERE expires_unix_seconds > 0 AND "
                                          "expires_unix_seconds <= ?"));
  rows.Bind(1, unix_seconds);
  std::vector<StoredFile> files;
  while (rows.Next()) files.push_back(ReadFile(&rows));
  if (!rows.status().ok()) return Failure();
  return files;
}

absl::Status FileStore::Put(const StoredBatch& batch, const std::vector<StoredFile>& files) {
  absl::MutexLock lock(&mutex_);
  return InTransaction([&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    SqliteStatement put;
    if (put.Prepare(database_,
                    "INSERT INTO batches (id, tenant, active, record, key_name, key_sha256) VALUES "
                    "(?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET active = excluded.active, "
                    "record = excluded.record") != SQLITE_OK) {
      return Failure();
    }
    const bool has_key = !batch.key.name.empty();
    put << batch.id << batch.tenant << batch.active << batch.record;
    put.If(has_key, batch.key.name).If(has_key, batch.key.sha256);
    if (!put.Run()) return Failure();
    for (const StoredFile& file : files) {
      if (absl::Status status = Insert(file); !status.ok()) return status;
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<std::optional<StoredBatch>> FileStore::FindBatch(const std::string& tenant,
                                                                const std::string& id) {
  absl::MutexLock lock(&mutex_);
  SqliteRows rows(database_,
                  "SELECT id, tenant, active, record FROM batches WHERE tenant = ? AND id = ?");
  rows.Bind(1, tenant);
  rows.Bind(2, id);
  if (rows.Next()) return ReadBatch(&rows);
  if (!rows.status().ok()) return Failure();
  return std::nullopt;
}

absl::StatusOr<std::optional<StoredBatch>> FileStore::FindMadeBatch(const std::string& tenant,
                                                                    const MakingKey& key) {
  if (key.name.empty()) return std::nullopt;
  absl::MutexLock lock(&mutex_);
  SqliteRows rows(database_,
                  "SELECT id, tenant, active, record, key_sha256 FROM batches WHERE tenant = ? AND "
                  "key_name = ?");
  rows.Bind(1, tenant);
  rows.Bind(2, key.name);
  if (rows.Next()) {
    StoredBatch made = ReadBatch(&rows);
    if (rows.Text() != key.sha256) return KeyReused();
    return made;
  }
  if (!rows.status().ok()) return Failure();
  return std::nullopt;
}

absl::StatusOr<Page<StoredBatch>> FileStore::ListBatches(const std::string& tenant,
                                                         const PageAsk& ask) {
  absl::MutexLock lock(&mutex_);
  SqliteRows rows(database_, PageSql("id, tenant, active, record", "batches", ask));
  BindPage(tenant, ask, &rows);
  auto page = TakePage<StoredBatch>(ask.limit, &rows, ReadBatch);
  if (!rows.status().ok()) return Failure();
  return page;
}

absl::StatusOr<std::vector<StoredBatch>> FileStore::ActiveBatches() {
  absl::MutexLock lock(&mutex_);
  SqliteRows rows(
      database_,
      "SELECT id, tenant, active, record FROM batches WHERE active = 1 ORDER BY sequence");
  std::vector<StoredBatch> batches;
  while (rows.Next()) batches.push_back(ReadBatch(&rows));
  if (!rows.status().ok()) return Failure();
  return batches;
}

absl::Status FileStore::Sweep(const std::vector<std::string>& known) {
  absl::MutexLock lock(&mutex_);
  absl::flat_hash_set<std::string> keep(known.begin(), known.end());
  SqliteRows rows(database_, "SELECT id FROM files");
  while (rows.Next()) keep.insert(rows.Text());
  if (!rows.status().ok()) return Failure();
  bytes_ = 0;
  std::error_code error;
  std::filesystem::directory_iterator entries(folder_, error);
  for (; !error && entries != std::filesystem::directory_iterator(); entries.increment(error)) {
    const std::string name = entries->path().filename().string();
    if (!absl::StartsWith(name, kFileIdPrefix)) continue;
    std::error_code ignored;
    if (keep.contains(name)) {
      bytes_ += static_cast<int64_t>(std::filesystem::file_size(entries->path(), ignored));
    } else {
      std::filesystem::remove(entries->path(), ignored);
    }
  }
  if (!error) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("--files-dir ", folder_, ": cannot be listed: ", error.message()));
}

absl::Status FileStore::Failure() {
  return absl::UnavailableError(absl::StrCat(
      "the service's own list of files cannot be used now: ", sqlite3_errmsg(database_),
      "; try again, or tell the operator"));
}

absl::Status FileStore::Execute(const char* sql) {
  return sqlite3_exec(database_, sql, nullptr, nullptr, nullptr) == SQLITE_OK ? absl::OkStatus()
                                                                              : Failure();
}

absl::Status FileStore::InTransaction(const std::function<absl::Status()>& body) {
  return InSqliteTransaction(
      database_, [this](const char* sql) ABSL_NO_THREAD_SAFETY_ANALYSIS { return Execute(sql); },
      body);
}

}  // namespace tuppence
