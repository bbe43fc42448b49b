#include "service/books_commands.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "service/export_books.h"
#include "service/invoice.h"
#include "service/text_table.h"
#include "service/verify_books.h"

namespace tuppence {
namespace {

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  return 1;
}

int RunVerify(const std::vector<std::string>& stores) {
  for (const std::string& store : stores) {
    const absl::StatusOr<VerifiedBooks> books = VerifyBooks(store);
    if (!books.ok()) return Fail(books.status());
    std::string text =
        absl::StrCat(store, ": every sum agrees. ", WithCommas(books->runs), " runs, ",
                     WithCommas(books->periods), " periods, ", WithCommas(books->requests),
                     " requests, ", Seconds(books->held_ns), " s booked");
    if (books->unaccounted_ns > 0) {
      absl::StrAppend(&text, ", ", Seconds(books->unaccounted_ns), " s unaccounted");
    }
    if (books->removed_rows > 0) {
      absl::StrAppend(&text, "; ", WithCommas(books->removed_rows),
                      " request rows are no longer kept, and their periods agree in themselves");
    }
    std::printf("%s\n", text.c_str());
  }
  return 0;
}

int RunExport(const std::string& store, const std::string& since) {
  int64_t since_utc_ns = std::numeric_limits<int64_t>::min();
  if (!since.empty()) {
    const absl::StatusOr<int64_t> time = ParseInvoiceTime(since, absl::UTCTimeZone());
    if (!time.ok()) {
      return Fail(absl::InvalidArgumentError(absl::StrCat("--since: ", time.status().message())));
    }
    since_utc_ns = *time;
  }
  const absl::Status status = ExportBooks(store, since_utc_ns, [](const std::string& line) {
    if (std::fwrite(line.data(), 1, line.size(), stdout) == line.size()) return absl::OkStatus();
    return absl::UnavailableError("standard output could not be written");
  });
  if (!status.ok()) return Fail(status);
  if (std::fflush(stdout) == 0) return 0;
  return Fail(absl::UnavailableError("standard output could not be written to the end"));
}

}  // namespace

void AddLedgerCommand(CLI::App& app, int* exit_code) {
  CLI::App* ledger = app.add_subcommand("ledger", "Check the books");
  ledger->require_subcommand(1);
  CLI::App* verify = ledger->add_subcommand(
      "verify", "Compute every sum of usage stores again; name the first row that does not agree");
  auto stores = std::make_shared<std::vector<std::string>>();
  verify->add_option("store", *stores, "Usage stores, one or more")->required();
  verify->footer("Works beside a running service. Ends with 1 where something does not agree.");
  verify->callback([stores, exit_code] { *exit_code = RunVerify(*stores); });
}

void AddStoreCommand(CLI::App& app, int* exit_code) {
  CLI::App* store = app.add_subcommand("store", "Take the books elsewhere");
  store->require_subcommand(1);
  CLI::App* command = store->add_subcommand(
      "export", "Periods and requests of a usage store as JSON, one object a line");
  struct Flags {
    std::string store;
    std::string since;
  };
  auto flags = std::make_shared<Flags>();
  command->add_option("store", flags->store, "A usage store")->required();
  command->add_option("--since", flags->since,
                      "Only what began (periods) or ended (requests) then or later: a day of UTC, "
                      "as 2026-11-01, or a time with offset");
  command->footer(
      "Works beside a running service. Each line's \"id\" stays the same for ever: take some time\n"
      "twice, keep one line for each id, and nothing is missed or doubled.");
  command->callback([flags, exit_code] { *exit_code = RunExport(flags->store, flags->since); });
}

}  // namespace tuppence
