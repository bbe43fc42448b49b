// A file opened for reading at offsets: regular files only, no mapping, short reads are errors.
// Used by the config and safetensors readers.
//
// Nothing is mapped on purpose: a mapped file that shrinks kills the process with SIGBUS in the
// middle of a request, where pread gives an error at load.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace tuppence {

class File {
 public:
  // NOT_FOUND, PERMISSION_DENIED or another error that names the path. Symbolic links are followed
  // (a Hugging Face cache consists of them); pipes, devices and folders are refused.
  static absl::StatusOr<File> Open(const std::string& path);

  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  ~File();

  const std::string& path() const { return path_; }
  int64_t bytes() const { return bytes_; }  // when it was opened

  // Reads exactly [offset, offset + bytes) into `out`.
  absl::Status ReadAt(int64_t offset, int64_t bytes, void* out) const;

 private:
  File(std::string path, int descriptor, int64_t bytes)
      : path_(std::move(path)), descriptor_(descriptor), bytes_(bytes) {}

  std::string path_;
  int descriptor_ = -1;
  int64_t bytes_ = 0;
};

// A name in a folder, not a path: what a file of the checkpoint says must not make the server read
// other files. Links are followed all the same, for a Hugging Face cache consists of them and
// whoever makes links there could as well write the files.
bool IsPlainFileName(const std::string& name);

// The whole of a small file, or an error if it is larger than `bytes_max`.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, int64_t bytes_max);

}  // namespace tuppence
