// `tuppence invoice`: reads the flags, makes the invoice and prints it. Called by main.
#pragma once

namespace CLI {
class App;
}

namespace tuppence {

// The subcommand; its callback leaves the exit code in *exit_code, which outlives the parsing.
void AddInvoiceCommand(CLI::App& app, int* exit_code);

}  // namespace tuppence
