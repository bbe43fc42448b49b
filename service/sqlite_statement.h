// SqliteStatement: a prepared statement that writes, bound column by column, run again and again.
// Used by usage_store; reading is SqliteRows'.
#pragma once

#include <sqlite3.h>

#include <concepts>
#include <cstdint>
#include <string>

namespace tuppence {

class SqliteStatement {
 public:
  SqliteStatement() = default;
  ~SqliteStatement() { sqlite3_finalize(statement_); }

  SqliteStatement(const SqliteStatement&) = delete;
  SqliteStatement& operator=(const SqliteStatement&) = delete;

  // SQLite's code. Once, before anything else.
  int Prepare(sqlite3* database, const char* sql) {
    return sqlite3_prepare_v3(database, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement_, nullptr);
  }

  // The next column. Text is not copied: it stays until Run.
  template <std::integral Value>
  SqliteStatement& operator<<(Value value) {
    sqlite3_bind_int64(statement_, ++column_, static_cast<int64_t>(value));
    return *this;
  }
  SqliteStatement& operator<<(double value) {
    sqlite3_bind_double(statement_, ++column_, value);
    return *this;
  }
  SqliteStatement& operator<<(const std::string& text) {
    sqlite3_bind_text(statement_, ++column_, text.data(), static_cast<int>(text.size()),
                      SQLITE_STATIC);
    return *this;
  }
  SqliteStatement& operator<<(const char* text) {
    sqlite3_bind_text(statement_, ++column_, text, -1, SQLITE_STATIC);
    return *this;
  }
  // Null where `known` is false.
  template <typename Value>
  SqliteStatement& If(bool known, const Value& value) {
    if (known) return *this << value;
    sqlite3_bind_null(statement_, ++column_);
    return *this;
  }

  // True when it is done and gave no row; otherwise the database has the error.
  bool Run() {
    const int code = sqlite3_step(statement_);
    sqlite3_reset(statement_);
    sqlite3_clear_bindings(statement_);
    column_ = 0;
    return code == SQLITE_DONE;
  }

 private:
  sqlite3_stmt* statement_ = nullptr;
  int column_ = 0;
};

}  // namespace tuppence
