#include "tests/service/usage_files.h"

#include <filesystem>

#include "model/check.h"
#include "scheduler/token_stream.h"

namespace tuppence {

std::string EmptyFolder() {
  const auto* test = testing::UnitTest::GetInstance()->current_test_info();
  const std::filesystem::path folder =
      std::filesystem::path(testing::TempDir()) /
      absl::StrCat("tuppence_", getpid(), "_", test->test_suite_name(), "_", test->name());
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return folder.string();
}

EndedRequest MakeEnded(int64_t number) {
  EndedRequest ended;
  RequestRow& row = ended.row;
  row.id = absl::StrCat("request-", number);
  row.caller_id = absl::StrCat("caller-", number);
  row.tenant = absl::StrCat("tenant-", number % 3);
  row.received_utc_ns = 4'000'000'000'000'000'000 + number;
  row.ended_utc_ns = row.received_utc_ns + 500;
  row.ended_ns = 1'000'000 + number;
  row.reason = FinishReason::kLength;
  row.usage = {.prompt_tokens = number + 10,
               .cached_tokens = 1,
               .completion_tokens = number + 20,
               .queue_ns = 2,
               .prefill_ns = 3,
               .decode_ns = 4,
               .total_ns = 9,
               .time_to_first_token_ns = 5,
               .steps = 6,
               .preemptions = 1,
               .mean_requests_per_step = 1.5};
  row.cost.machine_ns = 1000 + number;
  row.cost.shared_ns = 600;
  row.cost.own_ns = 400 + number;
  row.cost.prefill_ns = 100;
  row.cost.decode_ns = 900 + number;
  row.cost.has_rate = true;
  row.cost.cost_nanousd = 7 + number;
  row.cost.rate_card_id = "card";
  row.kv_block_seconds = 0.25;
  ended.end.cost = row.cost;
  ended.stream = std::make_shared<TokenStream>(1, TokenStream::Limits{});
  return ended;
}

Period MakePeriod(int64_t number) {
  Period period;
  period.number = number;
  period.start_ns = 1000 * number;
  period.end_ns = 1000 * (number + 1);
  period.utc_start_ns = 4'000'000'000'000'000'000 + period.start_ns;
  period.rate_card = {.id = "card", .micro_usd_per_hour = 526'000, .source = "list"};
  period.accounts = {.startup_ns = 1,
                     .idle_ns = 2,
                     .request_ns = 900,
                     .overhead_ns = 4,
                     .drain_ns = 5,
                     .unrecorded_ns = 88};
  period.tenants = {{.tenant = "a", .request_ns = 600, .open_ns = 11, .written_off_ns = 12},
                    {.tenant = "b", .request_ns = 300, .open_ns = 21, .lost_ns = 22}};
  return period;
}

std::vector<std::string> Query(const std::string& path, const std::string& sql) {
  sqlite3* database = nullptr;
  CHECK_EQ(sqlite3_open_v2(path.c_str(), &database, SQLITE_OPEN_READWRITE, nullptr), SQLITE_OK);
  sqlite3_busy_timeout(database, 5000);
  sqlite3_stmt* select = nullptr;
  if (sqlite3_prepare_v2(database, sql.c_str(), -1, &select, nullptr) != SQLITE_OK) {
    ADD_FAILURE() << sql << ": " << sqlite3_errmsg(database);
  }
  std::vector<std::string> rows;
  int code;
  while ((code = sqlite3_step(select)) == SQLITE_ROW) {
    std::string row;
    for (int column = 0; column < sqlite3_column_count(select); ++column) {
      const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(select, column));
      absl::StrAppend(&row, column == 0 ? "" : "|", text == nullptr ? "null" : text);
    }
    rows.push_back(row);
  }
  if (code != SQLITE_DONE) ADD_FAILURE() << sql << ": " << sqlite3_errmsg(database);
  sqlite3_finalize(select);
  sqlite3_close(database);
  return rows;
}

std::string QueryOne(const std::string& path, const std::string& sql) {
  const std::vector<std::string> rows = Query(path, sql);
  return rows.size() == 1 ? rows[0] : absl::StrCat(rows.size(), " rows");
}

void Alter(const std::string& path, const std::string& sql) {
  EXPECT_EQ(Query(path, sql), std::vector<std::string>());
}

}  // namespace tuppence
