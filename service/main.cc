// The tuppence program: hands its arguments to a command. Knows the commands' names, nothing else.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <vector>

#include "service/batch_command.h"
#include "service/books_commands.h"
#include "service/chat_command.h"
#include "service/explain_command.h"
#include "service/invoice_command.h"
#include "service/key_command.h"
#include "service/options.h"
#include "service/plan_command.h"
#include "service/score_command.h"
#include "service/serve.h"
#include "service/status_command.h"
#include "service/version.h"

namespace tuppence {
namespace {

int Main(int argc, char** argv) {
  CLI::App app(
      "Tuppence serves Phi-3 models over gRPC and tells every caller what their answer cost");
  app.require_subcommand(1);
  int exit_code = 0;
  CLI::App* serve = AddServeCommand(app, &exit_code);
  AddChatCommand(app, &exit_code);
  AddScoreCommand(app, &exit_code);
  AddBatchCommand(app, &exit_code);
  AddStatusCommand(app, &exit_code);
  AddExplainCommand(app, &exit_code);
  AddInvoiceCommand(app, &exit_code);
  AddPlanCommand(app, &exit_code);
  AddLedgerCommand(app, &exit_code);
  AddStoreCommand(app, &exit_code);
  AddKeyCommand(app, &exit_code);
  app.add_subcommand("version", "Print the version")->callback([] {
    std::printf("tuppence %s\n", kVersion);
  });

  DropServiceLinks();
  std::vector<std::string> arguments(argv + 1, argv + argc);
  if (!arguments.empty() && arguments[0] == serve->get_name()) {
    auto with_file = WithConfigFile(*serve, {arguments.begin() + 1, arguments.end()});
    if (!with_file.ok()) {
      std::fprintf(stderr, "%s\n", std::string(with_file.status().message()).c_str());
      return 1;
    }
    arguments.assign(1, serve->get_name());
    arguments.insert(arguments.end(), with_file->begin(), with_file->end());
  }
  // CLI11 takes them from the back.
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
  try {
    app.parse(reversed);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  return exit_code;
}

}  // namespace
}  // namespace tuppence

int main(int argc, char** argv) { return tuppence::Main(argc, argv); }
