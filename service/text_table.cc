#include "service/text_table.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tuppence {
namespace {

// Characters, not bytes: continuation bytes of UTF-8 take no place.
size_t Width(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

}  // namespace

void TextTable::Column(std::string heading, bool right) {
  if (rows_.empty()) rows_.emplace_back();
  rows_[0].push_back(std::move(heading));
  right_.push_back(right);
}

void TextTable::Row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }

void TextTable::Rule() { rows_.emplace_back(); }

std::string TextTable::Format() const {
  std::vector<size_t> widths(right_.size());
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], Width(row[i]));
  }
  size_t whole = 0;
  for (const size_t width : widths) whole += width + 2;
  std::string text;
  for (const auto& row : rows_) {
    std::string line = row.empty() ? std::string(whole - 2, '-') : "";
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string space(widths[i] - Width(row[i]), ' ');
      absl::StrAppend(&line, i > 0 ? "  " : "", right_[i] ? space : "", row[i],
                      right_[i] ? "" : space);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    absl::StrAppend(&text, line, "\n");
  }
  return text;
}

std::string WithCommas(int64_t value) {
  const std::string digits = absl::StrCat(value);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    const bool inner = i > 0 && digits[i - 1] != '-';
    if (inner && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

std::string Seconds(int64_t ns) {
  const int64_t ms = (ns + 500'000) / 1'000'000;
  return absl::StrFormat("%d.%03d", ms / 1000, ms % 1000);
}

}  // namespace tuppence
