#include "tests/service/made_store.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "service/budgets.h"
#include "service/usage_schema.h"

namespace tuppence {

int64_t Utc(const std::string& time) {
  absl::Time parsed;
  std::string error;
  EXPECT_TRUE(absl::ParseTime(absl::RFC3339_full, time, &parsed, &error)) << error;
  return absl::ToUnixNanos(parsed);
}

MadeStore::MadeStore() {
  static int made = 0;
  const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
  path_ = absl::StrCat(::testing::TempDir(), "/", test->test_suite_name(), ".", test->name(), ".",
                       ++made, ".db");
  std::filesystem::remove(path_);
  EXPECT_EQ(sqlite3_open(path_.c_str(), &database_), SQLITE_OK);
  for (const char* sql : kUsageMigrations) Sql(sql);
  Sql(absl::StrCat("PRAGMA user_version = ", kUsageSchemaVersion));
  Sql(absl::StrCat("PRAGMA application_id = ", kUsageApplicationId));
}

MadeStore::~MadeStore() {
  sqlite3_close(database_);
  std::filesystem::remove(path_);
}

void MadeStore::Sql(const std::string& sql) {
  char* error = nullptr;
  EXPECT_EQ(sqlite3_exec(database_, sql.c_str(), nullptr, nullptr, &error), SQLITE_OK)
      << (error == nullptr ? "" : error) << " in " << sql;
  sqlite3_free(error);
}

void MadeStore::Run(const std::string& id, const std::string& instance, int64_t started_utc_ns,
                    int64_t machine_share_ppm, const std::string& model) {
  Sql(absl::StrCat("INSERT INTO runs VALUES ('", id, "', '", instance, "', 'boot-", instance,
                   "', '1', '", model, "', 'plain', ", machine_share_ppm, ", ", started_utc_ns,
                   ", ", started_utc_ns, ", NULL, NULL, NULL, NULL)"));
  runs_[id].end_ns = started_utc_ns;
}

void MadeStore::Period(const std::string& run, MadePeriod period) {
  Last& last = runs_[run];
  const int64_t start_ns = std::exchange(last.end_ns, last.end_ns + period.seconds * kSecondNs);
  AccountTotals& accounts = period.accounts;
  for (const StoredCharge& charge : period.charges) accounts.request_ns += charge.request_ns;
  accounts.idle_ns += period.seconds * kSecondNs - accounts.sum_ns();
  const bool priced = !period.rate_card_id.empty();
  const std::string card = priced ? absl::StrCat("'", period.rate_card_id, "'") : "NULL";
  if (priced) {
    Sql(absl::StrCat("INSERT OR IGNORE INTO rate_cards VALUES (", card, ", ",
                     period.micro_usd_per_hour, ", 'list', 0)"));
  }
  Sql(absl::StrCat(
      "INSERT INTO periods VALUES ('", run, "', ", last.number, ", ", start_ns, ", ", last.end_ns,
      ", ", start_ns, ", ", card, ", ", priced ? absl::StrCat(period.micro_usd_per_hour) : "NULL",
      ", ", accounts.startup_ns, ", ", accounts.idle_ns, ", ", accounts.request_ns, ", ",
      accounts.overhead_ns, ", ", accounts.drain_ns, ", ", accounts.unrecorded_ns, ")"));
  for (const StoredCharge& charge : period.charges) {
    Sql(absl::StrCat("INSERT INTO period_charges VALUES ('", run, "', ", last.number, ", '",
                     charge.tenant, "', '", charge.model.empty() ? "phi" : charge.model, "', ",
                     charge.request_ns, ", ", charge.open_ns, ", ", charge.written_off_ns, ", ",
                     charge.lost_ns, ")"));
  }
  ++last.number;
}

void MadeStore::Request(const std::string& run, const MadeRequest& request) {
  const auto or_null = [](const std::optional<int64_t>& value) {
    return value.has_value() ? absl::StrCat(*value) : std::string("NULL");
  };
  const int64_t received_ns = request.ended_ns - kSecondNs;
  Sql(absl::StrCat("INSERT INTO requests VALUES (NULL, '", request.id, "', 'caller', '", run,
                   "', '", request.tenant, "', 'phi', ", received_ns, ", ", request.ended_ns, ", ",
                   request.ended_ns, ", 'ok', 0, 1000, 400, 100, 0, 0, 0, ", kSecondNs,
                   ", 0, 1, 0, 1.0, 0.0, ", request.machine_ns, ", ", request.machine_ns, ", 0, ",
                   request.machine_ns, ", 0, ", request.unrecorded_ns, ", ",
                   request.written_off ? 1 : 0, ", ", or_null(request.cost_nanousd), ", ",
                   request.cost_nanousd.has_value() ? "'card'" : "NULL", ", ",
                   or_null(request.reference_nanousd), ", ",
                   request.reference_nanousd.has_value() ? "'api@2026-11-01'" : "NULL", ", NULL)"));
  Sql(absl::StrCat("INSERT INTO tenant_days VALUES ('", request.tenant, "', ", DayOf(received_ns),
                   ", ", request.cost_nanousd.value_or(0),
                   ") ON CONFLICT DO UPDATE SET spent_nanousd = spent_nanousd + "
                   "excluded.spent_nanousd"));
}

void MadeStore::End(const std::string& run, int64_t lost_ns) {
  const int64_t ended_ns = runs_[run].end_ns + lost_ns;
  Sql(absl::StrCat("UPDATE runs SET ended_ns = ", ended_ns, ", ended_utc_ns = ", ended_ns,
                   " WHERE run_id = '", run, "'"));
}

}  // namespace tuppence
