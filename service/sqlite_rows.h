// SqliteRows: the rows of one SELECT, column by column. Used wherever SQLite is read.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tuppence {

// How long a connection waits for another one's lock (sqlite3_busy_timeout): the running service's
// checkpoint is over by then, and so is a reader that recovers the log of a service that died.
constexpr int kSqliteBusyMs = 5000;

class SqliteRows {
 public:
  SqliteRows(sqlite3* database, const std::string& sql) : database_(database) {
    if (sqlite3_prepare_v2(database, sql.c_str(), -1, &statement_, nullptr) != SQLITE_OK) Fail();
  }
  ~SqliteRows() { sqlite3_finalize(statement_); }

  SqliteRows(const SqliteRows&) = delete;
  SqliteRows& operator=(const SqliteRows&) = delete;

  void Bind(int index, int64_t value) {
    if (statement_ != nullptr) sqlite3_bind_int64(statement_, index, value);
  }

  void Bind(int index, const std::string& text) {
    if (statement_ == nullptr) return;
    sqlite3_bind_text(statement_, index, text.data(), static_cast<int>(text.size()),
                      SQLITE_TRANSIENT);
  }

  // On to the next row. False: there is none, or status() says what went wrong.
  bool Next() {
    column_ = 0;
    if (!status_.ok()) return false;
    const int code = sqlite3_step(statement_);
    if (code != SQLITE_ROW && code != SQLITE_DONE) Fail();
    return code == SQLITE_ROW;
  }
  const absl::Status& status() const { return status_; }

  // The row's next column.
  int64_t Integer() { return sqlite3_column_int64(statement_, column_++); }
  double Real() { return sqlite3_column_double(statement_, column_++); }
  std::string Text() {
    const int column = column_++;
    const void* text = sqlite3_column_text(statement_, column);
    return std::string(static_cast<const char*>(text == nullptr ? "" : text),
                       sqlite3_column_bytes(statement_, column));
  }
  std::optional<int64_t> IntegerOrNull() {
    if (IsNull()) return std::nullopt;
    return Integer();
  }
  std::optional<std::string> TextOrNull() {
    if (IsNull()) return std::nullopt;
    return Text();
  }

 private:
  bool IsNull() {
    if (sqlite3_column_type(statement_, column_) != SQLITE_NULL) return false;
    ++column_;
    return true;
  }
  void Fail() {
    status_ = absl::DataLossError(absl::StrCat("cannot be read: ", sqlite3_errmsg(database_)));
  }

  sqlite3* const database_;
  sqlite3_stmt* statement_ = nullptr;
  int column_ = 0;
  absl::Status status_;
};

}  // namespace tuppence
