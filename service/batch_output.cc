#include "service/batch_output.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "model/strict_json.h"

namespace tuppence {
namespace {

constexpr int kAnswerDepthMax = 32;

std::string DrawJobId() {
  std::random_device draw;
  return absl::StrFormat("%08x%08x", draw(), draw());
}

bool IsJobId(const std::string& text) {
  return text.size() == 16 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// A folder's entries are on the disk once the folder is synced.
bool SyncFolderOf(const std::string& path) {
  const std::filesystem::path folder = std::filesystem::absolute(path).parent_path();
  const int file = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (file < 0) return false;
  const bool synced = fsync(file) == 0;
  close(file);
  return synced;
}

// The whole of a small file at once: what is there is the old text or the new one.
bool ReplaceFile(const std::string& path, const std::string& text) {
  const std::string fresh = path + ".new";
  const int file = open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) return false;
  const bool written = write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
                       fsync(file) == 0;
  close(file);
  return written && std::rename(fresh.c_str(), path.c_str()) == 0 && SyncFolderOf(path);
}

}  // namespace

absl::StatusOr<std::unique_ptr<BatchOutput>> BatchOutput::Open(
    const std::string& path, const std::string& input_path,
    const std::function<void(const nlohmann::json& line)>& done) {
  std::error_code ignored;
  for (const std::string& other : {path, path + ".job"}) {
    if (std::filesystem::equivalent(other, input_path, ignored)) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": would be written over the input ",
                                                     input_path, "; name another file"));
    }
  }
  auto output = OpenFile(path, 0644, "and run the same command again: it goes on where it was");
  if (!output.ok()) return output;
  absl::Status status = (*output)->FindJob();
  if (status.ok()) status = (*output)->ReadDone(done);
  if (!status.ok()) return status;
  return output;
}

absl::StatusOr<std::unique_ptr<BatchOutput>> BatchOutput::Resume(
    const std::string& path, const std::function<void(const nlohmann::json& line)>& done) {
  auto output = OpenFile(path, 0600, "and it goes on where it was");
  if (!output.ok()) return output;
  if (absl::Status status = (*output)->ReadDone(done); !status.ok()) return status;
  return output;
}

absl::StatusOr<std::unique_ptr<BatchOutput>> BatchOutput::OpenFile(const std::string& path,
                                                                   int mode, const char* way_on) {
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, mode);
  struct stat what = {};
  if (file < 0 || fstat(file, &what) != 0 || !S_ISREG(what.st_mode)) {
    const std::string why = file < 0 ? std::strerror(errno) : "it is no regular file";
    if (file >= 0) close(file);
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": cannot be written (", why, "); name a file in a folder of yours"));
  }
  std::unique_ptr<BatchOutput> output(new BatchOutput(path, file, way_on));
  if (flock(file, LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": another batch is at work on it; wait for it, or name another file"));
  }
  return output;
}

BatchOutput::~BatchOutput() { close(file_); }

absl::Status BatchOutput::FindJob() {
  const std::string job = path_ + ".job";
  std::getline(std::ifstream(job), job_id_);
  if (IsJobId(job_id_)) return absl::OkStatus();
  struct stat what = {};
  if (fstat(file_, &what) != 0) return Failure("looking at it");
  if (what.st_size > 0) {
    return absl::FailedPreconditionError(absl::StrCat(path_, ": is there, and without ", job,
                                                      " it is no batch to go on with; name "
                                                      "another file, or move it away"));
  }
  job_id_ = DrawJobId();
  if (!ReplaceFile(job, job_id_ + "\n")) return Failure("beginning the job beside it");
  return absl::OkStatus();
}

absl::Status BatchOutput::ReadDone(const std::function<void(const nlohmann::json& line)>& done) {
  std::ifstream file(path_, std::ios::binary);
  std::string text;
  int64_t number = 0;
  int64_t whole = 0;
  while (std::getline(file, text) && !file.eof()) {
    ++number;
    const auto json = ParseStrictJson(text, kAnswerDepthMax);
    if (!json.ok() || !json->is_object() || !json->contains("id")) {
      return absl::DataLossError(
          absl::StrCat(path_, ": line ", number,
                       " is no answer of a batch; something else wrote "
                       "to the file. Take the line out, or name another file"));
    }
    done(*json);
    whole += static_cast<int64_t>(text.size()) + 1;
  }
  if (ftruncate(file_, whole) != 0 || fsync(file_) != 0)
    return Failure("taking a torn line off it");
  absl::MutexLock lock(&mutex_);
  bytes_ = whole;
  return absl::OkStatus();
}

absl::Status BatchOutput::Append(const std::string& line) {
  const std::string text = line + "\n";
  {
    absl::MutexLock lock(&mutex_);
    size_t written = 0;
    while (written < text.size()) {
      const ssize_t more = write(file_, text.data() + written, text.size() - written);
      if (more < 0 && errno == EINTR) continue;
      if (more <= 0) {
        const absl::Status status = Failure("writing to it");
        [[maybe_unused]] const int cut = ftruncate(file_, bytes_);
        return status;
      }
      written += static_cast<size_t>(more);
    }
    bytes_ += static_cast<int64_t>(text.size());
  }
  // Beside others' writes: several lines may share a sync.
  if (fdatasync(file_) != 0) return Failure("bringing it to the disk");
  return absl::OkStatus();
}

absl::Status BatchOutput::Failure(const char* what) const {
  const int error = errno;
  return absl::UnavailableError(
      absl::StrCat(path_, ": ", what, " failed: ", std::strerror(error), "; the job pauses. ",
                   error == ENOSPC ? "Free some space " : "Mend that ", way_on_));
}

}  // namespace tuppence
