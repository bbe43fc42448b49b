// See process.h.
#include "tests/end_to_end/process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace tuppence {
namespace {

// In the child, after fork: calls that are safe there, and no others.
void BecomeProgram(char* const* arguments, const char* folder, const char* output,
                   const char* errors, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(126);  // it died before it could be watched
  const int flags = O_WRONLY | O_CREAT | O_TRUNC;
  dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
  dup2(open(output, flags, 0600), STDOUT_FILENO);
  dup2(open(errors, flags, 0600), STDERR_FILENO);
  if (*folder != '\0' && chdir(folder) != 0) _exit(126);
  execvp(arguments[0], arguments);
  _exit(127);
}

}  // namespace

TemporaryFolder::TemporaryFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "tuppence_test_XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("cannot make " + pattern);
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

HeldPort::HeldPort() : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* const plain = reinterpret_cast<sockaddr*>(&address);
  if (bind(socket_, plain, size) != 0 || getsockname(socket_, plain, &size) != 0) {
    throw std::runtime_error("cannot take a port");
  }
  port_ = ntohs(address.sin_port);
}

HeldPort::~HeldPort() { close(socket_); }

Process::Process(const std::vector<std::string>& arguments, const std::string& folder) {
  std::vector<char*> pointers;
  for (const std::string& argument : arguments) {
    pointers.push_back(const_cast<char*>(argument.c_str()));
  }
  pointers.push_back(nullptr);
  const std::string output = files_.path() + "/output";
  const std::string errors = files_.path() + "/errors";
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ == 0)
    BecomeProgram(pointers.data(), folder.c_str(), output.c_str(), errors.c_str(), parent);
  if (pid_ < 0) throw std::runtime_error("cannot fork");
}

Process::~Process() {
  if (exit_code_.has_value()) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

void Process::Signal(int signal) const {
  if (!exit_code_.has_value()) kill(pid_, signal);
}

std::optional<int> Process::Wait(double seconds) {
  WaitUntil(seconds, [this] {
    int status = 0;
    if (exit_code_.has_value() || waitpid(pid_, &status, WNOHANG) != pid_) {
      return exit_code_.has_value();
    }
    exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return true;
  });
  return exit_code_;
}

std::string Process::Output() const { return ReadFile(files_.path() + "/output"); }

std::string Process::Errors() const { return ReadFile(files_.path() + "/errors"); }

Finished RunToEnd(const std::vector<std::string>& arguments, double seconds) {
  Process process(arguments);
  const std::optional<int> exit_code = process.Wait(seconds);
  return {exit_code.value_or(-1), process.Output(), process.Errors()};
}

}  // namespace tuppence
