#include "service/http_multipart.h"

#include <optional>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace tuppence {
namespace {

constexpr size_t kBoundaryCharactersMax = 70;  // RFC 2046

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

absl::Status Malformed(const std::string& what) {
  return absl::InvalidArgumentError(
      absl::StrCat("the body is no multipart/form-data: ", what,
                   "; send it as curl --form or an OpenAI client does"));
}

// The value of `name` in "form-data; name=\"a\"; filename=\"b.jsonl\"", quoted or not.
std::optional<std::string> ParameterOf(std::string_view field, std::string_view name) {
  size_t at = field.find(';');
  while (at != std::string_view::npos) {
    const size_t begin = field.find_first_not_of(" \t", at + 1);
    const size_t equals = begin == std::string_view::npos ? begin : field.find('=', begin);
    if (equals == std::string_view::npos) return std::nullopt;
    const bool found = absl::EqualsIgnoreCase(
        absl::StripAsciiWhitespace(View(field.substr(begin, equals - begin))), View(name));
    std::string value;
    size_t next = equals + 1;
    if (next < field.size() && field[next] == '"') {
      for (++next; next < field.size() && field[next] != '"'; ++next) {
        if (field[next] == '\\' && next + 1 < field.size()) ++next;
        value += field[next];
      }
      at = field.find(';', next);
    } else {
      at = field.find(';', next);
      value = std::string(absl::StripAsciiWhitespace(View(field.substr(next, at - next))));
    }
    if (found) return value;
  }
  return std::nullopt;
}

// What the header of a part says: "Name: value" lines.
absl::StatusOr<MultipartPart> ReadPart(absl::string_view header) {
  MultipartPart part;
  bool has_name = false;
  for (const absl::string_view line : absl::StrSplit(header, "\r\n", absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> field =
        absl::StrSplit(line, absl::MaxSplits(':', 1));
    const absl::string_view value = absl::StripAsciiWhitespace(field.second);
    if (absl::EqualsIgnoreCase(field.first, "Content-Disposition")) {
      const std::string_view text(value.data(), value.size());
      if (!absl::StartsWithIgnoreCase(value, "form-data")) {
        return Malformed("a part's Content-Disposition is not form-data");
      }
      const auto name = ParameterOf(text, "name");
      const auto filename = ParameterOf(text, "filename");
      has_name = name.has_value();
      part.name = name.value_or("");
      part.is_file = filename.has_value();
      part.filename = filename.value_or("");
    } else if (absl::EqualsIgnoreCase(field.first, "Content-Transfer-Encoding") &&
               !absl::EqualsIgnoreCase(value, "binary") && !absl::EqualsIgnoreCase(value, "8bit") &&
               !absl::EqualsIgnoreCase(value, "7bit")) {
      return Malformed("a part has a Content-Transfer-Encoding; send its bytes as they are");
    }
  }
  if (!has_name) return Malformed("a part has no name");
  return part;
}

}  // namespace

absl::StatusOr<std::string> MultipartReader::BoundaryOf(std::string_view content_type) {
  const absl::string_view type =
      absl::StripAsciiWhitespace(View(content_type.substr(0, content_type.find(';'))));
  if (!absl::EqualsIgnoreCase(type, "multipart/form-data")) {
    return absl::InvalidArgumentError("the body's Content-Type must be multipart/form-data");
  }
  const std::string boundary = ParameterOf(content_type, "boundary").value_or("");
  if (boundary.empty() || boundary.size() > kBoundaryCharactersMax) {
    return Malformed(absl::StrCat("its Content-Type has a boundary of ", boundary.size(),
                                  " characters; allowed is 1 to ", kBoundaryCharactersMax));
  }
  return boundary;
}

absl::Status MultipartReader::Feed(std::string_view bytes) {
  gathered_ += bytes;
  while (true) {
    const absl::StatusOr<bool> went_on = Step();
    if (!went_on.ok()) return went_on.status();
    if (!*went_on) return absl::OkStatus();
  }
}

absl::StatusOr<bool> MultipartReader::Step() {
  switch (state_) {
    case State::kPreamble:
    case State::kBody:
      return PassToBoundary();
    case State::kAfterBoundary:
      return ReadAfterBoundary();
    case State::kHeader:
      return ReadPartHeader();
    case State::kEnd:
      gathered_.clear();  // what follows the last boundary means nothing
      return false;
  }
  return false;
}

// Passes on what stands before the next boundary; without one, all but what may be its beginning.
absl::StatusOr<bool> MultipartReader::PassToBoundary() {
  const size_t found = gathered_.find(delimiter_);
  size_t bytes = found;
  if (found == std::string::npos) {
    const size_t kept = delimiter_.size() - 1;
    bytes = gathered_.size() > kept ? gathered_.size() - kept : 0;
  }
  if (state_ == State::kBody && bytes > 0) {
    if (absl::Status status = sink_->PartBytes(std::string_view(gathered_).substr(0, bytes));
        !status.ok()) {
      return status;
    }
  }
  gathered_.erase(0, found == std::string::npos ? bytes : bytes + delimiter_.size());
  if (found == std::string::npos) return false;
  if (state_ == State::kBody) {
    if (absl::Status status = sink_->EndPart(); !status.ok()) return status;
  }
  state_ = State::kAfterBoundary;
  return true;
}

// "--" ends the body; blanks and a line's end begin a part.
absl::StatusOr<bool> MultipartReader::ReadAfterBoundary() {
  if (gathered_.size() < 2) return false;
  if (absl::StartsWith(gathered_, "--")) {
    state_ = State::kEnd;
    return true;
  }
  const size_t end = gathered_.find_first_not_of(" \t");
  if (end > kPartHeaderBytesMax && end != std::string::npos) {
    return Malformed("a boundary has no line's end");
  }
  if (end == std::string::npos || end + 2 > gathered_.size()) {
    if (gathered_.size() > kPartHeaderBytesMax) return Malformed("a boundary has no line's end");
    return false;
  }
  if (gathered_.compare(end, 2, "\r\n") != 0) return Malformed("a boundary has no line's end");
  // The line's end stays: a part without a header has "\r\n\r\n" right here.
  gathered_.erase(0, end);
  if (++parts_ > kPartsMax) {
    return Malformed(absl::StrCat("it has more than ", kPartsMax, " parts"));
  }
  state_ = State::kHeader;
  return true;
}

absl::StatusOr<bool> MultipartReader::ReadPartHeader() {
  const size_t end = gathered_.find("\r\n\r\n");
  if (end > kPartHeaderBytesMax && gathered_.size() > kPartHeaderBytesMax) {
    return Malformed(absl::StrCat("a part's header has more than ", kPartHeaderBytesMax, " bytes"));
  }
  if (end == std::string::npos) return false;
  const absl::StatusOr<MultipartPart> part = ReadPart(absl::string_view(gathered_).substr(0, end));
  if (!part.ok()) return part.status();
  if (absl::Status status = sink_->BeginPart(*part); !status.ok()) return status;
  gathered_.erase(0, end + 4);
  state_ = State::kBody;
  return true;
}

absl::Status MultipartReader::Finish() const {
  if (state_ == State::kEnd) return absl::OkStatus();
  return Malformed("it ends before its last boundary");
}

}  // namespace tuppence
