#include "service/csv_table.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace tuppence {
namespace {

void Split(absl::string_view line, std::vector<std::string>* cells) {
  cells->assign(1, "");
  bool quoted = false;
  for (size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '"') {
      if (quoted && i + 1 < line.size() && line[i + 1] == '"') {
        cells->back() += line[++i];
      } else {
        quoted = !quoted;
      }
    } else if (line[i] == ',' && !quoted) {
      cells->emplace_back();
    } else {
      cells->back() += line[i];
    }
  }
  for (std::string& cell : *cells) absl::StripAsciiWhitespace(&cell);
}

bool Has(const std::vector<std::string>& names, absl::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

std::string CsvCell(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  return absl::StrCat("\"", absl::StrReplaceAll(text, {{"\"", "\"\""}}), "\"");
}

absl::Status WrongLine(int64_t line, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("line ", line, ": ", what));
}

bool CsvTable::TakeLine(absl::string_view* line) {
  while (!left_.empty()) {
    const size_t end = std::min(left_.find('\n'), left_.size());
    *line = absl::StripAsciiWhitespace(left_.substr(0, end));
    left_.remove_prefix(std::min(end + 1, left_.size()));
    ++line_;
    if (!line->empty()) return true;
  }
  return false;
}

absl::Status CsvTable::ReadHeading(const std::vector<std::string>& needed,
                                   const std::vector<std::string>& optional) {
  absl::string_view line;
  if (TakeLine(&line)) Split(line, &heading_);
  for (std::string& name : heading_) absl::AsciiStrToLower(&name);
  for (const std::string& name : needed) {
    if (Has(heading_, name)) continue;
    return WrongLine(line_, absl::StrCat("the heading has no column \"", name, "\"; it needs ",
                                         absl::StrJoin(needed, ", "), ", and has ",
                                         absl::StrJoin(heading_, ", ")));
  }
  for (const std::string& name : heading_) {
    if (optional.empty() || Has(needed, name) || Has(optional, name)) continue;
    return WrongLine(
        line_,
        absl::StrCat("the heading has a column \"", name, "\", which is not known; beside ",
                     absl::StrJoin(needed, ", "), " there may be ", absl::StrJoin(optional, ", ")));
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> CsvTable::Next() {
  absl::string_view line;
  if (!TakeLine(&line)) return false;
  Split(line, &cells_);
  if (cells_.size() == heading_.size()) return true;
  return WrongLine(
      line_, absl::StrCat("has ", cells_.size(), " cells, the heading has ", heading_.size()));
}

const std::string& CsvTable::Cell(absl::string_view column) const {
  static const std::string* const kNone = new std::string();
  const auto found = std::find(heading_.begin(), heading_.end(), column);
  return found == heading_.end() ? *kNone : cells_[found - heading_.begin()];
}

}  // namespace tuppence
