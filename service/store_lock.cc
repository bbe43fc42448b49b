#include "service/store_lock.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <sstream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tuppence {
namespace {

constexpr absl::Duration kSignEvery = absl::Milliseconds(100);

// The file is written in one piece of one size, so that no reader sees half of two texts.
std::string TextOf(const SignOfLife& sign) {
  return absl::StrFormat("pid %010d\nrun_id %32s\nalive_ns %020d\n", sign.pid, sign.run_id,
                         sign.alive_ns);
}

SignOfLife Read(int file) {
  char text[256] = {};
  const ssize_t size = pread(file, text, sizeof(text) - 1, 0);
  std::istringstream words(std::string(text, size < 0 ? 0 : size));
  std::map<std::string, std::string> values;
  for (std::string name, value; words >> name >> value;) values[name] = value;
  SignOfLife sign;
  if (!absl::SimpleAtoi(values["pid"], &sign.pid) ||
      !absl::SimpleAtoi(values["alive_ns"], &sign.alive_ns)) {
    return {};
  }
  sign.run_id = values["run_id"];
  return sign;
}

}  // namespace

absl::StatusOr<std::unique_ptr<StoreLock>> StoreLock::Take(const std::string& store_path,
                                                           const Clock* clock) {
  const std::string path = absl::StrCat(store_path, ".lock");
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (file < 0) {
    return absl::UnavailableError(absl::StrCat("usage store ", store_path, ": its lock file ", path,
                                               " cannot be opened: ", std::strerror(errno),
                                               "; give --usage-store a path that can be written"));
  }
  const bool taken = flock(file, LOCK_EX | LOCK_NB) == 0;
  const int why = errno;
  SignOfLife previous = Read(file);
  if (taken) {
    return std::unique_ptr<StoreLock>(new StoreLock(file, clock, std::move(previous)));
  }
  close(file);
  if (why != EWOULDBLOCK) {
    return absl::UnavailableError(absl::StrCat("usage store ", store_path, ": ", path,
                                               " cannot be locked: ", std::strerror(why),
                                               "; put the store on a local file system"));
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "usage store ", store_path, " is in use by process ", previous.pid,
      "; one process writes a store: stop that one, or give each its own --usage-store"));
}

StoreLock::StoreLock(int file, const Clock* clock, SignOfLife previous)
    : file_(file), clock_(clock), previous_(std::move(previous)) {}

StoreLock::~StoreLock() {
  if (thread_.joinable()) {
    {
      absl::MutexLock lock(&mutex_);
      ending_ = true;
    }
    thread_.join();
  }
  close(file_);
}

void StoreLock::StartSigns(const std::string& run_id) {
  run_id_ = run_id;
  Sign();
  thread_ = std::thread([this] { Run(); });
}

// A sign that cannot be written leaves the one before, which is as true as it was.
void StoreLock::Sign() const {
  const std::string text = TextOf({getpid(), run_id_, clock_->NowNs()});
  [[maybe_unused]] const ssize_t written = pwrite(file_, text.data(), text.size(), 0);
}

void StoreLock::Run() {
  pthread_setname_np(pthread_self(), "sign-of-life");
  absl::MutexLock lock(&mutex_);
  while (!mutex_.AwaitWithTimeout(absl::Condition(&ending_), kSignEvery)) Sign();
}

}  // namespace tuppence
