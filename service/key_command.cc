#include "service/key_command.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>

#include "service/api_keys.h"

namespace tuppence {
namespace {

struct KeyOptions {
  std::string file;
  std::string tenant;
  std::string expires;
  std::string id;
};

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  return 1;
}

// The key alone on standard output, for a script to catch.
int Add(const KeyOptions& options) {
  const absl::StatusOr<std::string> key = MakeApiKey(options.file, options.tenant, options.expires);
  if (!key.ok()) return Fail(key.status());
  std::fprintf(stderr,
               "A key of tenant %s; it is shown this once. A running service takes it after "
               "SIGHUP.\n",
               options.tenant.c_str());
  return std::printf("%s\n", key->c_str()) > 0 ? 0 : 1;
}

int Remove(const KeyOptions& options) {
  if (absl::Status removed = RemoveApiKey(options.file, options.id); !removed.ok()) {
    return Fail(removed);
  }
  std::fprintf(stderr, "Removed. A running service refuses it after SIGHUP.\n");
  return 0;
}

int List(const KeyOptions& options) {
  const auto keys = ListApiKeys(options.file);
  if (!keys.ok()) return Fail(keys.status());
  for (const ListedKey& key : *keys) {
    std::printf("%s  %-24s %s\n", key.id.c_str(), key.tenant.c_str(),
                key.expires.empty() ? "never expires" : key.expires.c_str());
  }
  return 0;
}

}  // namespace

void AddKeyCommand(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<KeyOptions>();
  CLI::App* key = app.add_subcommand("key", "Make, list and remove keys that callers show");
  key->require_subcommand(1);
  CLI::App* add = key->add_subcommand("add", "Make a key, and keep its hash in the file");
  add->add_option("file", options->file, "The file that serve --keys reads; made where missing")
      ->required();
  add->add_option("--tenant", options->tenant, "Whose key it is")->required();
  add->add_option("--expires", options->expires, "Date on which it ends, as 2027-06-30");
  add->callback([options, exit_code] { *exit_code = Add(*options); });
  CLI::App* list = key->add_subcommand("list", "Show ids, tenants and dates; no key can be shown");
  list->add_option("file", options->file, "The file that serve --keys reads")->required();
  list->callback([options, exit_code] { *exit_code = List(*options); });
  CLI::App* remove = key->add_subcommand("remove", "Revoke a key");
  remove->add_option("file", options->file, "The file that serve --keys reads")->required();
  remove->add_option("id", options->id, "Its id, the eight characters after \"tuppence-\"")
      ->required();
  remove->callback([options, exit_code] { *exit_code = Remove(*options); });
}

}  // namespace tuppence
