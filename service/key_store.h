// KeyStore: the usage store's table of idempotency keys: which request answered a tenant's key,
// with which seed, and the hash of what it asked; never what was asked or answered. A key is posted
// in the transaction that stores its request's row, so that an answer which a caller has seen whole
// is found again after a kill. Part of UsageStore; every call is within a transaction of its.
// KeyReader looks keys up beside it. Thread: UsageStore's; KeyReader: any.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "scheduler/step_records.h"
#include "service/sqlite_statement.h"

struct sqlite3;

namespace tuppence {

class KeyStore {
 public:
  // False, here and below: the database has the error.
  bool Prepare(sqlite3* database);
  // The row's key, where it has one and was answered.
  bool Insert(const RequestRow& row, const std::string& run_id);
  // Keys of requests that came before; at most so many.
  bool Remove(int64_t before_utc_ns, int most);

 private:
  SqliteStatement insert_, remove_;
};

// The first request of a key.
struct FirstRequest {
  std::string request_id;
  std::string request_sha256;
  uint64_t seed = 0;
  int64_t received_utc_ns = 0;
  // Of one that is known by the books alone.
  std::string outcome = {};
  std::string model = {};
  std::string arithmetic_id = {};
};

class KeyReader {
 public:
  // path: the store's file, which UsageStore has opened before the first look.
  explicit KeyReader(std::string path) : path_(std::move(path)) {}
  ~KeyReader();

  KeyReader(const KeyReader&) = delete;
  KeyReader& operator=(const KeyReader&) = delete;

  // None: the books know no such key. UNAVAILABLE: they cannot be read.
  absl::StatusOr<std::optional<FirstRequest>> Find(const std::string& tenant,
                                                   const std::string& name);

 private:
  const std::string path_;
  absl::Mutex mutex_;
  sqlite3* database_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace tuppence
