// See file.h.
#include "model/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tuppence {

absl::StatusOr<File> File::Open(const std::string& path) {
  // O_NONBLOCK: opening a pipe that nobody writes to must not hang the start.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return absl::ErrnoToStatus(errno, absl::StrCat("opening ", path));
  File file(path, descriptor, 0);
  struct stat info;
  if (::fstat(descriptor, &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("reading the size of ", path));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is not a regular file; give the file itself, as downloaded"));
  }
  file.bytes_ = info.st_size;
  return file;
}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      bytes_(other.bytes_) {}

File& File::operator=(File&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

absl::Status File::ReadAt(int64_t offset, int64_t bytes, void* out) const {
  int64_t done = 0;
  while (done < bytes) {
    const ssize_t count =
        ::pread(descriptor_, static_cast<char*>(out) + done, bytes - done, offset + done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      return absl::ErrnoToStatus(errno,
                                 absl::StrCat("reading ", path_, " at byte ", offset + done));
    }
    if (count == 0) {
      return absl::DataLossError(absl::StrCat(
          path_, " ends at byte ", offset + done, "; it had ", bytes_,
          " bytes when it was opened and has become shorter since; something is writing to it"));
    }
    done += count;
  }
  return absl::OkStatus();
}

bool IsPlainFileName(const std::string& name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         name.find('/') == std::string::npos && name.find('\\') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path, int64_t bytes_max) {
  absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return file.status();
  if (file->bytes() > bytes_max) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", file->bytes(), " bytes; allowed are ", bytes_max));
  }
  std::string text(file->bytes(), '\0');
  const absl::Status read = file->ReadAt(0, file->bytes(), text.data());
  if (!read.ok()) return read;
  return text;
}

}  // namespace tuppence
