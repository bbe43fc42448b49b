#include "tests/scheduler/simulation/violation.h"

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace tuppence::simulation {
namespace {

char replay_line[160];
int watch_seconds = 0;

void Write(const char* text) {
  if (write(STDERR_FILENO, text, std::strlen(text)) < 0) _exit(1);
}

void OnSignal(int signal) {
  Write(signal == SIGALRM ? "the seed does not come to an end\n" : "the engine aborted\n");
  Write(replay_line);
  _exit(1);
}

}  // namespace

void NoteSeed(unsigned long long seed) {
  std::snprintf(replay_line, sizeof(replay_line),
                "replay: scheduler_simulation --seeds 1 --from %llu --verbose\n", seed);
  alarm(watch_seconds);
}

void Violation(std::string_view what) {
  std::fprintf(stderr, "%.*s\n", static_cast<int>(what.size()), what.data());
  Write(replay_line);
  _exit(1);
}

void Require(bool holds, std::string_view what) {
  if (!holds) Violation(what);
}

void WatchForAborts(int seconds_max) {
  watch_seconds = seconds_max;
  for (const int signal : {SIGABRT, SIGSEGV, SIGFPE, SIGALRM}) std::signal(signal, OnSignal);
}

}  // namespace tuppence::simulation
