// The flags that every command has that calls a running service: chat, score and explain.
#pragma once

#include "service/client.h"

namespace CLI {
class App;
}

namespace tuppence {

// --address, --timeout and the TLS flags. *options outlives the parsing.
void AddClientFlags(CLI::App& command, ClientOptions* options);

}  // namespace tuppence
