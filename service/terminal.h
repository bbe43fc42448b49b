// What the commands know of the terminal: whether there is one, how text is shown on it, and what
// Ctrl-C does. Used by the commands.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace tuppence {

bool IsTerminal(int file_descriptor);

// The text in a dim colour, or as it stands where the descriptor is no terminal or the user asked
// for none (NO_COLOR, TERM=dumb).
std::string Dim(std::string_view text, int file_descriptor);

// Text as a terminal may safely show it: control characters other than newline and tab, which could
// move the cursor or retitle the window, become U+FFFD. What a model writes is not to be trusted.
// Requires: whole characters of UTF-8.
std::string WithoutControls(std::string_view text);

// Bytes between double quotes: quotes, backslashes and controls escaped, whole UTF-8 characters as
// they are, bytes of a part of one as \xNN.
std::string Quoted(std::string_view bytes);

// Bytes of the whole UTF-8 character at the start of `text`; 0 when there is none.
int CharacterBytes(std::string_view text);

// While one lives, Ctrl-C calls the handler, on a thread of its own, in place of ending the
// program. The handler says whether there was something to interrupt; if not, the program ends with
// 130, as an interrupted one does. At most one at a time; make it before any other thread, for
// threads inherit which signals they leave to it.
class InterruptWatch {
 public:
  explicit InterruptWatch(std::function<bool()> on_interrupt);
  ~InterruptWatch();

  InterruptWatch(const InterruptWatch&) = delete;
  InterruptWatch& operator=(const InterruptWatch&) = delete;

 private:
  void Run();

  const std::function<bool()> on_interrupt_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace tuppence
