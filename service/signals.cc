#include "service/signals.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <string_view>

#include "absl/time/time.h"

namespace tuppence {
namespace {

constexpr int kForceAt = 3;  // the first drains, the second cuts the drain short, the third ends

sigset_t Watched() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGHUP);
  return set;
}

void Write(std::string_view text) { (void)!write(STDERR_FILENO, text.data(), text.size()); }

}  // namespace

Signals::Signals() {
  const sigset_t set = Watched();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);  // a caller that goes away is an error of that write
  signal(SIGXFSZ, SIG_IGN);  // and so is a limit on the size of files
  thread_ = std::thread([this] { Run(); });
}

Signals::~Signals() {
  stopping_ = true;
  pthread_kill(thread_.native_handle(), SIGTERM);
  thread_.join();
}

void Signals::Run() {
  const sigset_t set = Watched();
  while (true) {
    int signal = 0;
    if (sigwait(&set, &signal) != 0) continue;
    if (stopping_) return;
    if (signal == SIGHUP) {
      ++hangups_;
      continue;
    }
    if (!graceful_) {
      Write("stopped before serving began\n");
      _exit(0);
    }
    absl::MutexLock lock(&mutex_);
    if (++count_ >= kForceAt) {
      Write("third signal: ending at once\n");
      _exit(1);
    }
  }
}

int Signals::WaitForMoreThan(int seen, int64_t timeout_ns) {
  absl::MutexLock lock(&mutex_);
  const auto more = [this, seen]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return count_ > seen; };
  mutex_.AwaitWithTimeout(absl::Condition(&more), absl::Nanoseconds(timeout_ns));
  return count_;
}

int Signals::count() const {
  absl::MutexLock lock(&mutex_);
  return count_;
}

}  // namespace tuppence
