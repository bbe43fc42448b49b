#include "service/explain_command.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "service/client.h"
#include "service/client_flags.h"
#include "service/explain.h"
#include "service/usage_reader.h"

namespace tuppence {
namespace {

struct ExplainOptions {
  std::string id;
  std::vector<std::string> stores;
  ClientOptions client;
};

absl::StatusOr<std::string> ExplainFromStores(const ExplainOptions& options) {
  for (const std::string& path : options.stores) {
    const auto reader = UsageReader::Open(path);
    if (!reader.ok()) return reader.status();
    const auto found = (*reader)->FindRequest(options.id, std::nullopt);
    if (!found.ok()) return found.status();
    if (found->has_value()) return Explain(**found);
  }
  return absl::NotFoundError(absl::StrCat(
      "no request ", options.id, " in ", absl::StrJoin(options.stores, ", "),
      ": it was refused before any work, was answered while nothing could be recorded, is no "
      "longer kept, still runs, or is in another store"));
}

absl::StatusOr<std::string> ExplainFromService(const ExplainOptions& options) {
  const auto client = Client::Make(options.client);
  if (!client.ok()) return client.status();
  v1::GetUsageResponse usage;
  if (absl::Status status = (*client)->GetUsage(options.id, &usage); !status.ok()) return status;
  return usage.explanation();
}

int RunExplain(const ExplainOptions& options) {
  const absl::StatusOr<std::string> text =
      options.stores.empty() ? ExplainFromService(options) : ExplainFromStores(options);
  if (!text.ok()) {
    std::fprintf(stderr, "error: %s\n", std::string(text.status().message()).c_str());
    return 1;
  }
  return std::fputs(text->c_str(), stdout) >= 0 ? 0 : 1;
}

}  // namespace

void AddExplainCommand(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<ExplainOptions>();
  CLI::App* command =
      app.add_subcommand("explain", "What was booked for one request, and why, in words");
  command
      ->add_option("id", options->id,
                   "The service's id of it (tuppence-request-id), or the caller's own "
                   "(x-request-id): then the latest of that name")
      ->required();
  command->add_option("--usage-store", options->stores,
                      "Read these usage stores, not a running service; any tenant's requests");
  AddClientFlags(*command, &options->client);
  command->get_option("--usage-store")->excludes("--address");
  command->callback([options, exit_code] { *exit_code = RunExplain(*options); });
}

}  // namespace tuppence
