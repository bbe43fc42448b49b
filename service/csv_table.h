// CSV: reading a table with a heading line by line, as bills, traces and a model API's invoices
// are; and a cell as it is written. Quoted cells may hold commas and doubled quotes; no line ends
// when they are read.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tuppence {

class CsvTable {
 public:
  // text outlives the table.
  explicit CsvTable(absl::string_view text) : left_(text) {}

  // Reads the heading; names are compared in small letters. INVALID_ARGUMENT where one of `needed`
  // is missing; and, where there are optional ones, if a column is neither.
  absl::Status ReadHeading(const std::vector<std::string>& needed,
                           const std::vector<std::string>& optional = {});
  // Whether there is another line, which then is the current one; empty lines are passed over.
  // INVALID_ARGUMENT where it has more or fewer cells than the heading.
  absl::StatusOr<bool> Next();

  // The current line's cell under that heading, without space around it; "" without such a column.
  const std::string& Cell(absl::string_view column) const;
  int64_t line() const { return line_; }

 private:
  bool TakeLine(absl::string_view* line);

  absl::string_view left_;
  int64_t line_ = 0;
  std::vector<std::string> heading_;
  std::vector<std::string> cells_;
};

// Quotes where CSV needs it.
std::string CsvCell(const std::string& text);

// "line 7: " before what is wrong with it.
absl::Status WrongLine(int64_t line, absl::string_view what);

}  // namespace tuppence
