// `tuppence explain`: what was booked for one request and why, from a running service or from the
// usage stores themselves. Called by main.
#pragma once

namespace CLI {
class App;
}

namespace tuppence {

// The subcommand; its callback leaves the exit code in *exit_code, which outlives the parsing.
void AddExplainCommand(CLI::App& app, int* exit_code);

}  // namespace tuppence
