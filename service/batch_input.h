// BatchInput: a batch's file, one request a line, as it lies on disk: read a line at a time, so
// that its size bounds no memory. Used by batch_command,
// http_upload and batch_jobs.
//
// Lines end in LF or CRLF, the last one may have no end; a byte order mark is passed over and so
// are blank lines. A line longer than kBatchLineBytesMax is passed over too and stands as one that
// cannot be read.
#pragma once

#include <cstdint>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tuppence {

constexpr size_t kBatchLineBytesMax = size_t{4} << 20;
constexpr int64_t kBatchLinesMax = 1'000'000;
constexpr size_t kCustomIdBytesMax = 512;

struct BatchLine {
  int64_t number = 0;     // from 1, blank lines counted
  std::string text = {};  // "" where it is too long
  bool too_long = false;
};

class BatchInput {
 public:
  // NOT_FOUND where it cannot be read.
  static absl::StatusOr<BatchInput> Open(const std::string& path);

  // The next line that is not blank; none at the end. Once none came, status() says why.
  std::optional<BatchLine> Next();
  const absl::Status& status() const { return status_; }

 private:
  explicit BatchInput(const std::string& path) : path_(path), file_(path, std::ios::binary) {}
  bool ReadLine(BatchLine* line);

  std::string path_;
  std::ifstream file_;
  int64_t number_ = 0;
  absl::Status status_;
};

// The `custom_id` of a line; "" where the line is no JSON object and so has none to ask for.
// INVALID_ARGUMENT where it is an object without one of 1 to 512 bytes.
absl::StatusOr<std::string> CustomIdOf(const BatchLine& line);

// Reads the whole file once, before any work. INVALID_ARGUMENT, naming the lines, where there are
// none, too many, or some whose custom_id is missing, too long or there twice.
struct BatchCount {
  int64_t lines = 0;  // that are not blank
};
struct BatchCheck {
  int64_t lines_max = kBatchLinesMax;
  std::string name = {};  // of the file in messages; "": its path
};
absl::StatusOr<BatchCount> CheckBatchInput(const std::string& path, const BatchCheck& check = {});

}  // namespace tuppence
