#include "service/line_writer.h"

#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace tuppence {
namespace {

// Long enough to write some lines at once under load, short enough for who watches the log.
constexpr absl::Duration kGather = absl::Milliseconds(20);
constexpr int kFarewellMs = 1000;

}  // namespace

LineWriter::LineWriter(int file) : file_(file), thread_([this] { Run(); }) {}

LineWriter::~LineWriter() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

void LineWriter::Write(std::string_view line) {
  absl::MutexLock lock(&mutex_);
  if (lines_.size() + line.size() >= kWaitingBytesMax) {
    ++lost_;
    return;
  }
  lines_ += line;
  lines_ += '\n';
}

void LineWriter::Run() {
  pthread_setname_np(pthread_self(), "log");
  std::string taken;
  bool last = false;
  while (!last) {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &LineWriter::HasWork));
      mutex_.AwaitWithTimeout(absl::Condition(this, &LineWriter::IsStopping), kGather);
      taken = std::exchange(lines_, {});
      if (const int64_t lost = std::exchange(lost_, 0); lost > 0) {
        absl::StrAppend(&taken, R"({"event":"lines_lost","lines":)", lost, "}\n");
      }
      last = stopping_;
    }
    WriteAll(taken);
  }
}

void LineWriter::WriteAll(std::string_view lines) {
  while (!lines.empty()) {
    pollfd file = {.fd = file_, .events = POLLOUT, .revents = 0};
    if (poll(&file, 1, kFarewellMs) == 0) {
      absl::MutexLock lock(&mutex_);
      if (stopping_) return;
      continue;
    }
    // No more than a pipe takes at once: a longer write would wait for its reader.
    const ssize_t written = write(file_, lines.data(), std::min<size_t>(lines.size(), PIPE_BUF));
    if (written < 0 && errno != EINTR && errno != EAGAIN) return;  // there is no reader any more
    if (written > 0) lines.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace tuppence
