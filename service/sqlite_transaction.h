// InSqliteTransaction: all of what `body` writes, or nothing. Used by usage_store and file_store.
#pragma once

#include <sqlite3.h>

#include "absl/status/status.h"

namespace tuppence {

// Begin, body(), commit; after any error back to where it was. execute(sql) runs one statement and
// says what its error means; both return absl::Status.
template <typename Execute, typename Body>
absl::Status InSqliteTransaction(sqlite3* database, const Execute& execute, const Body& body) {
  absl::Status status = execute("BEGIN IMMEDIATE");
  if (status.ok()) status = body();
  if (status.ok()) status = execute("COMMIT");
  if (!status.ok() && sqlite3_get_autocommit(database) == 0) {
    sqlite3_exec(database, "ROLLBACK", nullptr, nullptr, nullptr);
  }
  return status;
}

}  // namespace tuppence
