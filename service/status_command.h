// `tuppence status`: asks a running service's admin port how it fares and prints it. Called by
// main; what the page says is status_page's.
#pragma once

namespace CLI {
class App;
}

namespace tuppence {

// The subcommand; its callback leaves the exit code in *exit_code, which outlives the parsing: 0,
// or 1 where nobody answers or the service is not ready.
void AddStatusCommand(CLI::App& app, int* exit_code);

}  // namespace tuppence
