// `tuppence chat`: a conversation with a running service in a terminal, or one message and its
// answer for a script. Streams the answer to stdout; what it took and cost goes to stderr.
// Called by main; speaks to the service through client alone.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "service/client.h"

namespace CLI {
class App;
}

namespace tuppence {

struct ChatOptions {
  ClientOptions client;
  std::string system;                  // the system message; "": none
  std::optional<std::string> message;  // one shot; none: a conversation
  double temperature = 0;
  std::optional<int32_t> max_tokens;  // none: the service's default
  std::optional<uint64_t> seed;
};

// The exit code: 0, 1 with the error on stderr, or 130 after Ctrl-C. The question of a conversation
// is read from stdin, a line each; on a terminal an error leaves the conversation standing.
int RunChat(const ChatOptions& options);

// The subcommand; its callback leaves the exit code in *exit_code, which outlives the parsing.
void AddChatCommand(CLI::App& app, int* exit_code);

}  // namespace tuppence
