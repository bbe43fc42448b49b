// MultipartReader: a body of multipart/form-data, as it comes, piece by piece: what each part is,
// then its bytes, in pieces, with nothing kept but what may be the beginning of a boundary. For
// uploads, which are larger than memory should be. Source: RFC 7578, RFC 2046 5.1.1. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tuppence {

struct MultipartPart {
  std::string name;
  std::string filename;  // as the caller wrote it: text, never a path
  bool is_file = false;  // it has a filename
};

class MultipartSink {
 public:
  virtual ~MultipartSink() = default;
  // Whatever one of them returns but OK ends the reading and is returned by Feed.
  virtual absl::Status BeginPart(const MultipartPart& part) = 0;
  virtual absl::Status PartBytes(std::string_view bytes) = 0;
  virtual absl::Status EndPart() = 0;
};

class MultipartReader {
 public:
  static constexpr size_t kPartHeaderBytesMax = 4096;
  static constexpr int kPartsMax = 16;

  // Of the Content-Type field. INVALID_ARGUMENT where it is no multipart/form-data or has no
  // boundary of 1 to 70 characters.
  static absl::StatusOr<std::string> BoundaryOf(std::string_view content_type);

  // sink outlives this.
  MultipartReader(const std::string& boundary, MultipartSink* sink)
      : delimiter_("\r\n--" + boundary), sink_(sink) {}

  // INVALID_ARGUMENT where the bytes are no such body. After an error it is fed no more.
  absl::Status Feed(std::string_view bytes);
  // The body is at its end: INVALID_ARGUMENT where its last boundary was not there.
  absl::Status Finish() const;

 private:
  enum class State : uint8_t { kPreamble, kAfterBoundary, kHeader, kBody, kEnd };

  // True: it went on by a step, and more may be done with what has gathered.
  absl::StatusOr<bool> Step();
  absl::StatusOr<bool> PassToBoundary();
  absl::StatusOr<bool> ReadAfterBoundary();
  absl::StatusOr<bool> ReadPartHeader();

  const std::string delimiter_;  // of parts, the line's end before it included
  MultipartSink* const sink_;
  State state_ = State::kPreamble;
  int parts_ = 0;
  // Not passed on yet. A boundary at the very beginning has no line's end before it.
  std::string gathered_ = "\r\n";
};

}  // namespace tuppence
