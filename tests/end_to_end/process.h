// Process: a program that a test starts, whose output lands in files, and which does not outlive
// the test. TemporaryFolder: where such files go. Used by all of tests/end_to_end.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace tuppence {

class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();  // removes it with all that is in it

  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string ReadFile(const std::string& path);

class Process {
 public:
  // arguments[0] is the program, looked for in PATH. Its standard input is empty; it starts in
  // `folder`, or where the test runs. Ends with SIGKILL when the test's process dies.
  explicit Process(const std::vector<std::string>& arguments, const std::string& folder = "");
  ~Process();  // kills what still runs

  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  void Signal(int signal) const;
  // The exit code, 128 + n after signal n; none when it still runs after so many seconds.
  std::optional<int> Wait(double seconds);

  std::string Output() const;  // standard output so far
  std::string Errors() const;  // standard error so far

 private:
  TemporaryFolder files_;
  pid_t pid_ = -1;
  std::optional<int> exit_code_;
};

// A port of this machine that nobody else gets while this lives, and that nobody listens on.
class HeldPort {
 public:
  HeldPort();
  ~HeldPort();
  HeldPort(const HeldPort&) = delete;
  HeldPort& operator=(const HeldPort&) = delete;

  int socket() const { return socket_; }
  std::string port() const { return std::to_string(port_); }

 private:
  int socket_ = -1;
  int port_ = 0;
};

struct Finished {
  int exit_code = -1;  // -1: it took longer than the time given, and was killed
  std::string output;
  std::string errors;
};

Finished RunToEnd(const std::vector<std::string>& arguments, double seconds = 30);

// Calls `done` until it is true or the time is over, and returns its last answer.
template <typename Done>
bool WaitUntil(double seconds, const Done& done) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!done()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

}  // namespace tuppence
