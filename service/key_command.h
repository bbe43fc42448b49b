// key_command: `tuppence key add|list|remove`: the file of keys that --keys names. Called by main.
#pragma once

namespace CLI {
class App;
}

namespace tuppence {

// The subcommand; its callback leaves the exit code in *exit_code, which outlives the parsing.
void AddKeyCommand(CLI::App& app, int* exit_code);

}  // namespace tuppence
