// serve: `tuppence serve`: loads, listens, serves until a signal, drains. Owns every part as a
// local, made in order of need and destroyed in reverse. Called by main.
#pragma once

namespace CLI {
class App;
}

namespace tuppence {

// The subcommand; its callback leaves the exit code in *exit_code, which outlives the parsing.
//   0  drained after a signal, or --check found nothing wrong
//   1  could not start
//   3  the engine failed, and only a new process helps
// Returns it, for WithConfigFile.
CLI::App* AddServeCommand(CLI::App& app, int* exit_code);

}  // namespace tuppence
