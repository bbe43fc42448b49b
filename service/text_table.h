// TextTable: rows of text in aligned columns, for a terminal. Used by the commands that print
// tables.
#pragma once

#include <string>
#include <vector>

namespace tuppence {

class TextTable {
 public:
  // A column's heading; `right` for numbers.
  void Column(std::string heading, bool right = false);
  // As many cells as there are columns.
  void Row(std::vector<std::string> cells);
  // A line of dashes.
  void Rule();
  // Two spaces between columns, none at a line's end.
  std::string Format() const;

 private:
  std::vector<std::vector<std::string>> rows_;  // the headings first; an empty one is a rule
  std::vector<bool> right_;
};

// 1234567 -> "1,234,567".
std::string WithCommas(int64_t value);
// Nanoseconds as seconds, three decimals, rounded half up: "12.346".
std::string Seconds(int64_t ns);

}  // namespace tuppence
