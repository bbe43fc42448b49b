#include "service/batch_input.h"

#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "model/strict_json.h"

namespace tuppence {
namespace {

constexpr size_t kProblemsShownMax = 5;
constexpr char kByteOrderMark[] = "\xef\xbb\xbf";

}  // namespace

absl::StatusOr<BatchInput> BatchInput::Open(const std::string& path) {
  BatchInput input(path);
  if (!input.file_ || input.file_.peek() == std::ifstream::traits_type::eof()) {
    const bool is_there = static_cast<bool>(std::ifstream(path));
    if (!is_there) {
      return absl::NotFoundError(
          absl::StrCat(path, ": cannot be read; check the path and its permissions"));
    }
    input.file_.clear();
  }
  return input;
}

bool BatchInput::ReadLine(BatchLine* line) {
  *line = {.number = ++number_};
  using Traits = std::ifstream::traits_type;
  std::streambuf* bytes = file_.rdbuf();
  bool any = false;
  for (int next = bytes->sbumpc(); next != Traits::eof(); next = bytes->sbumpc()) {
    any = true;
    if (next == '\n') break;
    if (line->text.size() == kBatchLineBytesMax) line->too_long = true;
    if (!line->too_long) line->text.push_back(static_cast<char>(next));
  }
  if (line->too_long) line->text = {};
  if (absl::EndsWith(line->text, "\r")) line->text.pop_back();
  if (line->number == 1 && absl::StartsWith(line->text, kByteOrderMark)) line->text.erase(0, 3);
  return any;
}

std::optional<BatchLine> BatchInput::Next() {
  BatchLine line;
  while (ReadLine(&line)) {
    if (line.too_long || !absl::StripAsciiWhitespace(line.text).empty()) return line;
  }
  if (file_.bad()) status_ = absl::DataLossError(absl::StrCat(path_, ": reading it failed"));
  return std::nullopt;
}

absl::StatusOr<std::string> CustomIdOf(const BatchLine& line) {
  const auto json = ParseStrictJson(line.text);
  if (!json.ok() || !json->is_object()) return std::string();
  const auto id = json->find("custom_id");
  if (id == json->end() || !id->is_string()) {
    return absl::InvalidArgumentError("has no custom_id that is a string");
  }
  const auto text = id->get<std::string>();
  if (text.empty() || text.size() > kCustomIdBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("has a custom_id of ", text.size(),
                                                   " bytes; allowed is 1 to ", kCustomIdBytesMax));
  }
  return text;
}

absl::StatusOr<BatchCount> CheckBatchInput(const std::string& path, const BatchCheck& check) {
  const std::string& name = check.name.empty() ? path : check.name;
  absl::StatusOr<BatchInput> input = BatchInput::Open(path);
  if (!input.ok()) return input.status();
  BatchCount count;
  absl::flat_hash_map<std::string, int64_t> lines;  // by custom_id
  std::string problems;
  size_t found = 0;
  const auto add = [&](int64_t number, absl::string_view what) {
    if (found++ < kProblemsShownMax) absl::StrAppend(&problems, "\n  line ", number, " ", what);
  };
  while (const std::optional<BatchLine> line = input->Next()) {
    if (++count.lines > check.lines_max) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": has more than ", check.lines_max,
                                                     " lines; split it into several batches"));
    }
    absl::StatusOr<std::string> id = CustomIdOf(*line);
    if (!id.ok()) {
      add(line->number, id.status().message());
    } else if (!id->empty()) {
      const auto [first, is_new] = lines.emplace(*std::move(id), line->number);
      if (!is_new) {
        add(line->number, absl::StrCat("has the custom_id of line ", first->second, ", \"",
                                       absl::CEscape(first->first.substr(0, 64)), "\""));
      }
    }
  }
  if (!input->status().ok()) return input->status();
  if (count.lines == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(name,
                     ": has no lines; each is a request as {\"custom_id\": \"1\", \"method\": "
                     "\"POST\", \"url\": \"/v1/chat/completions\", \"body\": {...}}"));
  }
  if (found == 0) return count;
  if (found > kProblemsShownMax) {
    absl::StrAppend(&problems, "\n  and ", found - kProblemsShownMax, " more");
  }
  return absl::InvalidArgumentError(
      absl::StrCat(name,
                   ": each line needs a custom_id of its own, by which its answer is found "
                   "again; nothing was asked:",
                   problems));
}

}  // namespace tuppence
