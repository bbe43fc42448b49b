// See terminal.h.
#include "service/terminal.h"

#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tuppence {
namespace {

bool IsControl(std::string_view character) {
  const auto lead = static_cast<unsigned char>(character[0]);
  if (lead == '\n' || lead == '\t') return false;
  if (lead < 0x20 || lead == 0x7f) return true;
  // U+0080 to U+009F: the same commands in one character.
  return lead == 0xc2 && static_cast<unsigned char>(character[1]) < 0xa0;
}

bool WantsColour(int file_descriptor) {
  if (!IsTerminal(file_descriptor)) return false;
  const char* no_colour = std::getenv("NO_COLOR");
  if (no_colour != nullptr && *no_colour != '\0') return false;
  const char* term = std::getenv("TERM");
  return term != nullptr && std::string_view(term) != "dumb";
}

}  // namespace

bool IsTerminal(int file_descriptor) { return isatty(file_descriptor) == 1; }

std::string Dim(std::string_view text, int file_descriptor) {
  if (!WantsColour(file_descriptor)) return std::string(text);
  return "\033[2m" + std::string(text) + "\033[0m";
}

int CharacterBytes(std::string_view text) {
  if (text.empty()) return 0;
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  if (byte(0) < 0x80) return 1;
  const int bytes = byte(0) >= 0xf0 ? 4 : byte(0) >= 0xe0 ? 3 : 2;
  if (byte(0) < 0xc2 || byte(0) > 0xf4 || text.size() < static_cast<size_t>(bytes)) return 0;
  for (int i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  // Longer than needed, half of a surrogate pair, past U+10FFFF.
  if ((byte(0) == 0xe0 && byte(1) < 0xa0) || (byte(0) == 0xed && byte(1) >= 0xa0) ||
      (byte(0) == 0xf0 && byte(1) < 0x90) || (byte(0) == 0xf4 && byte(1) >= 0x90)) {
    return 0;
  }
  return bytes;
}

std::string WithoutControls(std::string_view text) {
  std::string shown;
  shown.reserve(text.size());
  while (!text.empty()) {
    const int bytes = CharacterBytes(text);
    const std::string_view character = text.substr(0, bytes == 0 ? 1 : bytes);
    if (bytes == 0 || IsControl(character)) {
      shown += "\xef\xbf\xbd";
    } else {
      shown += character;
    }
    text.remove_prefix(character.size());
  }
  return shown;
}

std::string Quoted(std::string_view bytes) {
  std::string quoted = "\"";
  while (!bytes.empty()) {
    const int length = CharacterBytes(bytes);
    const std::string_view character = bytes.substr(0, length == 0 ? 1 : length);
    if (character == "\n") {
      quoted += "\\n";
    } else if (character == "\t") {
      quoted += "\\t";
    } else if (character == "\"" || character == "\\") {
      quoted += '\\';  // apart: GCC 12 warns of an overlap that "\\" + string cannot have
      quoted += character;
    } else if (length == 0 || IsControl(character)) {
      for (const char c : character) {
        absl::StrAppendFormat(&quoted, "\\x%02x", static_cast<unsigned char>(c));
      }
    } else {
      quoted += character;
    }
    bytes.remove_prefix(character.size());
  }
  return quoted + "\"";
}

InterruptWatch::InterruptWatch(std::function<bool()> on_interrupt)
    : on_interrupt_(std::move(on_interrupt)) {
  sigset_t interrupt;
  sigemptyset(&interrupt);
  sigaddset(&interrupt, SIGINT);
  pthread_sigmask(SIG_BLOCK, &interrupt, nullptr);
  thread_ = std::thread([this] { Run(); });
}

InterruptWatch::~InterruptWatch() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  pthread_kill(thread_.native_handle(), SIGINT);
  thread_.join();
  sigset_t interrupt;
  sigemptyset(&interrupt);
  sigaddset(&interrupt, SIGINT);
  pthread_sigmask(SIG_UNBLOCK, &interrupt, nullptr);
}

void InterruptWatch::Run() {
  sigset_t interrupt;
  sigemptyset(&interrupt);
  sigaddset(&interrupt, SIGINT);
  while (true) {
    int signal = 0;
    if (sigwait(&interrupt, &signal) != 0) continue;
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) return;
    }
    if (on_interrupt_()) continue;
    const char newline = '\n';
    if (IsTerminal(STDERR_FILENO) && write(STDERR_FILENO, &newline, 1) != 1) _exit(130);
    _exit(130);  // other threads are at work: no destructors
  }
}

}  // namespace tuppence
