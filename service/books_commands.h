// `tuppence ledger verify` and `tuppence store export`: what is done with usage stores besides
// invoices. Called by main.
#pragma once

namespace CLI {
class App;
}

namespace tuppence {

// The subcommands; their callbacks leave the exit code in *exit_code, which outlives the parsing.
void AddLedgerCommand(CLI::App& app, int* exit_code);
void AddStoreCommand(CLI::App& app, int* exit_code);

}  // namespace tuppence
