// The store as one process: what is kept, who may have it, what is refused, what is removed.
#include "service/usage_store.h"

#include <gmock/gmock.h>

#include <fstream>

#include "service/usage_schema.h"
#include "tests/service/usage_files.h"
#include "tests/support/fake_clock.h"

namespace tuppence {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class UsageStoreTest : public testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<UsageStore>> Open(StoreOptions options = {}) {
    options.path = path_;
    auto store = UsageStore::Open(options,
                                  {.instance = "machine-1",
                                   .version = "9.9",
                                   .rate_card = {.machine_share_ppm = 250'000},
                                   .started_ns = clock_.NowNs(),
                                   .started_utc_ns = clock_.UtcNs()},
                                  &clock_);
    if (!store.ok()) return store;
    EXPECT_TRUE((*store)->NameModel("demo", "arithmetic").ok());
    return store;
  }
  void Write(UsageStore* store, const std::vector<EndedRequest>& ended,
             const std::vector<Period>& periods = {}) {
    const absl::Status status = store->Write(ended, periods);
    EXPECT_TRUE(status.ok()) << status;
  }
  std::string WhyNot(StoreOptions options = {}) {
    const auto store = Open(options);
    EXPECT_EQ(store.status().code(), absl::StatusCode::kFailedPrecondition);
    return store.status().ToString();
  }

  FakeClock clock_{5'000'000};
  const std::string path_ = EmptyFolder() + "/usage.db";
};

TEST_F(UsageStoreTest, ARowComesBackAsItWas) {
  const auto store = Open().value();
  std::vector<EndedRequest> ended;
  ended.push_back(MakeEnded(1));
  ended.push_back(MakeEnded(2));
  RequestRow& second = ended[1].row;
  second.reason = FinishReason::kError;
  second.code = absl::StatusCode::kInternal;
  second.written_off = true;
  second.unrecorded_ns = 77;
  second.cost.has_rate = false;
  second.cost.has_reference = true;
  second.cost.reference_nanousd = 555;
  second.cost.reference_id = "api";
  second.cost.replay_of = "first";
  Write(store.get(), ended);
  EXPECT_THAT(
      Query(path_, "SELECT * FROM requests ORDER BY sequence"),
      ElementsAre(
          "1|request-1|caller-1|" + store->run_id() +
              "|tenant-1|demo|4000000000000000001|4000000000000000501|1000001|length|0|11|"
              "1|21|2|3|4|9|5|6|1|1.5|0.25|1001|600|401|100|901|0|0|8|card|null|null|null",
          "2|request-2|caller-2|" + store->run_id() +
              "|tenant-2|demo|4000000000000000002|4000000000000000502|1000002|error|13|12|"
              "1|22|2|3|4|9|5|6|1|1.5|0.25|1002|600|402|100|902|77|1|null|null|555|api|first"));
}

TEST_F(UsageStoreTest, APeriodAndItsAccountsComeBackAsTheyWere) {
  const auto store = Open().value();
  Period unpriced = MakePeriod(1);
  unpriced.rate_card = {};
  Write(store.get(), {}, {MakePeriod(0), unpriced});
  const std::string& run = store->run_id();
  EXPECT_THAT(Query(path_, "SELECT * FROM periods ORDER BY number"),
              ElementsAre(run + "|0|0|1000|4000000000000000000|card|526000|1|2|900|4|5|88",
                          run + "|1|1000|2000|4000000000000001000|null|null|1|2|900|4|5|88"));
  EXPECT_THAT(Query(path_, "SELECT * FROM period_charges WHERE number = 0 ORDER BY tenant"),
              ElementsAre(run + "|0|a|demo|600|11|12|0", run + "|0|b|demo|300|21|0|22"));
  EXPECT_THAT(Query(path_, "SELECT * FROM rate_cards"), ElementsAre("card|526000|list|0"));
}

TEST_F(UsageStoreTest, WhatIsWrittenTwiceIsThereOnce) {
  const auto store = Open().value();
  std::vector<EndedRequest> ended;
  ended.push_back(MakeEnded(1));
  Write(store.get(), ended, {MakePeriod(0)});
  ended[0].row.cost.machine_ns = 5;  // what is there stays as it is
  ended.push_back(MakeEnded(2));
  Write(store.get(), ended, {MakePeriod(0), MakePeriod(1)});
  EXPECT_THAT(Query(path_, "SELECT request_id, machine_ns FROM requests ORDER BY sequence"),
              ElementsAre("request-1|1001", "request-2|1002"));
  EXPECT_EQ(QueryOne(path_, "SELECT count(*) FROM periods"), "2");
  EXPECT_EQ(QueryOne(path_, "SELECT count(*) FROM period_charges"), "4");
}

TEST_F(UsageStoreTest, ARunIsOpenedAndEnded) {
  const auto store = Open().value();
  const std::string sql =
      "SELECT run_id, instance, version, model, arithmetic_id, machine_share_ppm, started_ns, "
      "ended_ns, ended_utc_ns - started_utc_ns FROM runs";
  const std::string begin = store->run_id() + "|machine-1|9.9|demo|arithmetic|250000|5000000|";
  EXPECT_EQ(QueryOne(path_, sql), begin + "null|null");
  EXPECT_TRUE(store->EndRun(5'000'600).ok());
  EXPECT_EQ(QueryOne(path_, sql), begin + "5000600|600");
  EXPECT_EQ(store->run_id().size(), 32u);
}

TEST_F(UsageStoreTest, AProcessThatEndsWhileItLoadsHasItsShare) {
  const StoreRun run = {.instance = "machine-1",
                        .rate_card = {.machine_share_ppm = 250'000},
                        .started_ns = clock_.NowNs(),
                        .started_utc_ns = clock_.UtcNs()};
  (void)UsageStore::Open({.path = path_}, run, &clock_).value();  // and no model is ever named
  const auto next = Open().value();
  EXPECT_THAT(Query(path_, "SELECT model, machine_share_ppm, ended_ns FROM runs ORDER BY rowid"),
              ElementsAre("|250000|5000000", "demo|250000|null"));
}

TEST_F(UsageStoreTest, AKilledRunEndsAtItsLastSignOfLife) {
  const std::string ends =
      "SELECT ended_ns, ended_utc_ns - started_utc_ns FROM runs ORDER BY rowid";
  (void)Open().value();  // gone without a word; its last sign was at 5000000
  clock_.Advance(1'000'000);
  auto second = Open().value();
  EXPECT_THAT(Query(path_, ends), ElementsAre("5000000|0", "null|null"));
  Period late = MakePeriod(0);
  late.end_ns = 6'000'700;  // later than the sign
  Write(second.get(), {}, {late});
  second.reset();
  clock_.Advance(1'000'000);
  auto third = Open().value();
  EXPECT_THAT(Query(path_, ends), ElementsAre("5000000|0", "6000700|700", "null|null"));
  std::vector<EndedRequest> ended;
  ended.push_back(MakeEnded(1));
  ended[0].row.ended_ns = 7'000'900;
  Write(third.get(), ended);
  third.reset();
  std::ofstream(path_ + ".lock") << "nothing that anybody could read";
  const auto fourth = Open().value();
  EXPECT_THAT(Query(path_, ends),
              ElementsAre("5000000|0", "6000700|700", "7000900|900", "null|null"));
}

TEST_F(UsageStoreTest, ASecondProcessIsRefusedAndToldWhoHasIt) {
  auto store = Open().value();
  EXPECT_THAT(WhyNot(), AllOf(HasSubstr(path_), HasSubstr(absl::StrCat("process ", getpid())),
                              HasSubstr("--usage-store")));
  store.reset();
  EXPECT_TRUE(Open().ok());
}

TEST_F(UsageStoreTest, ANewerFileIsRefusedByItsVersion) {
  (void)Open().value();
  Alter(path_, absl::StrCat("PRAGMA user_version = ", kUsageSchemaVersion + 1));
  EXPECT_THAT(WhyNot(), AllOf(HasSubstr(path_),
                              HasSubstr(absl::StrCat("schema version ", kUsageSchemaVersion + 1)),
                              HasSubstr(absl::StrCat("up to ", kUsageSchemaVersion)),
                              HasSubstr("run the newer program")));
}

TEST_F(UsageStoreTest, AnotherProgramsFilesAreRefusedAndLeftAlone) {
  std::ofstream(path_) << "Dear diary, this is no database, though it is as long as a header: "
                          "a hundred bytes and some more.";
  EXPECT_THAT(WhyNot(), AllOf(HasSubstr(path_), HasSubstr("not a usage store")));
  std::remove(path_.c_str());
  std::ofstream(path_).close();
  Alter(path_, "CREATE TABLE diary (day TEXT)");
  EXPECT_THAT(WhyNot(), HasSubstr("another program's database"));
  EXPECT_EQ(QueryOne(path_, "SELECT name FROM sqlite_schema"), "diary");
}

TEST_F(UsageStoreTest, AFolderThatIsNotThereIsNamed) {
  const auto store = UsageStore::Open({.path = path_ + "/x/usage.db"}, {}, &clock_);
  EXPECT_EQ(store.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(store.status().ToString(), HasSubstr("/x/usage.db"));
}

TEST_F(UsageStoreTest, AnOlderFileIsTakenForward) {
  std::ofstream(path_).close();  // version 0: nothing at all
  (void)Open().value();
  EXPECT_EQ(QueryOne(path_, "PRAGMA user_version"), absl::StrCat(kUsageSchemaVersion));
  EXPECT_EQ(QueryOne(path_, "PRAGMA application_id"), absl::StrCat(kUsageApplicationId));
  EXPECT_EQ(QueryOne(path_, "PRAGMA journal_mode"), "wal");
}

TEST_F(UsageStoreTest, TheCardThatAProcessStartsUnderIsThereBeforeItsFirstPeriod) {
  const RateCard card = {.id = "t4",
                         .micro_usd_per_hour = 526'000,
                         .machine_share_ppm = 250'000,
                         .source = "list",
                         .valid_from_utc_ns = 7};
  (void)UsageStore::Open({.path = path_}, {.instance = "i", .rate_card = card}, &clock_).value();
  EXPECT_EQ(QueryOne(path_, "SELECT start_rate_card_id || start_micro_usd_per_hour FROM runs"),
            "t4526000");
  EXPECT_EQ(QueryOne(path_, "SELECT machine_share_ppm FROM runs"), "250000");
  EXPECT_EQ(QueryOne(path_, "SELECT source || valid_from_utc_ns FROM rate_cards"), "list7");
  (void)UsageStore::Open({.path = path_}, {.instance = "i"}, &clock_).value();
  EXPECT_EQ(QueryOne(path_, "SELECT count(*) FROM runs WHERE start_rate_card_id IS NULL"), "1");
}

TEST_F(UsageStoreTest, AFileThatWasMovedIsNotWrittenTo) {
  const auto store = Open().value();
  ASSERT_EQ(std::rename(path_.c_str(), (path_ + ".old").c_str()), 0);
  const absl::Status moved = store->Write({}, {});
  EXPECT_EQ(moved.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(moved.ToString(), HasSubstr("moved or deleted"));
  ASSERT_EQ(std::rename((path_ + ".old").c_str(), path_.c_str()), 0);
  Write(store.get(), {});
}

TEST_F(UsageStoreTest, RetentionRemovesRowsOfRequestsAndKeepsPeriods) {
  const auto store = Open({.keep_requests_days = 30}).value();
  std::vector<EndedRequest> ended;
  for (int i = 0; i < 1200; ++i) ended.push_back(MakeEnded(i));
  const int64_t ended_utc_ns = ended.back().row.ended_utc_ns;
  Write(store.get(), ended, {MakePeriod(0)});
  int64_t now_ns = 0;
  // Some at a time, so that nobody waits long; the next look is soon while there is more.
  const auto tidy = [&](int64_t utc_now_ns) {
    store->Tidy(now_ns += 60'000'000'000, utc_now_ns);
    return QueryOne(path_, "SELECT count(*) FROM requests");
  };
  EXPECT_EQ(tidy(ended_utc_ns + 29 * kDayNs), "1200");
  EXPECT_EQ(tidy(ended_utc_ns + 31 * kDayNs), "700");
  EXPECT_EQ(tidy(ended_utc_ns + 31 * kDayNs), "200");
  EXPECT_EQ(tidy(ended_utc_ns + 31 * kDayNs), "0");
  EXPECT_EQ(QueryOne(path_, "SELECT count(*) FROM periods"), "1");
  EXPECT_EQ(tidy(ended_utc_ns + 399 * kDayNs), "0");
  EXPECT_EQ(QueryOne(path_, "SELECT count(*) FROM periods"), "1");
  EXPECT_EQ(tidy(ended_utc_ns + 401 * kDayNs), "0");
  EXPECT_EQ(QueryOne(path_, "SELECT count(*) FROM periods"), "0");
  EXPECT_EQ(QueryOne(path_, "SELECT count(*) FROM period_charges"), "0");
  EXPECT_EQ(QueryOne(path_, "SELECT count(*) FROM runs"), "1") << "it has not ended";
}

TEST_F(UsageStoreTest, ARunGoesWithItsLastPeriod) {
  auto store = Open().value();
  Write(store.get(), {}, {MakePeriod(0)});
  EXPECT_TRUE(store->EndRun(6'000'000).ok());
  store.reset();
  store = Open().value();
  store->Tidy(0, MakePeriod(0).utc_start_ns + 401 * kDayNs);
  EXPECT_EQ(QueryOne(path_, "SELECT run_id FROM runs"), store->run_id());
  EXPECT_THAT(Query(path_, "SELECT * FROM periods"), IsEmpty());
}

TEST_F(UsageStoreTest, ReadersSeeWhatWasWrittenWhileItRuns) {
  const auto store = Open({.checkpoint_pages = 1}).value();
  for (int i = 0; i < 5; ++i) {
    std::vector<EndedRequest> ended;
    ended.push_back(MakeEnded(i));
    Write(store.get(), ended);
    store->Tidy(0, 0);
    EXPECT_EQ(QueryOne(path_, "SELECT count(*) FROM requests"), absl::StrCat(i + 1));
  }
  EXPECT_GT(store->BytesFree(), 0);
}

TEST_F(UsageStoreTest, AStoreOfTheFirstVersionKnowsWhatWasSpentOnceItIsOpened) {
  sqlite3* database = nullptr;
  ASSERT_EQ(sqlite3_open(path_.c_str(), &database), SQLITE_OK);
  const std::string first = absl::StrCat(kUsageSchema, "PRAGMA user_version = 1; ",
                                         "PRAGMA application_id = ", kUsageApplicationId);
  ASSERT_EQ(sqlite3_exec(database, first.c_str(), nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(database);
  Alter(path_, "INSERT INTO runs VALUES ('old', 'i', 'b', '1', 'demo', 'a', 1000000, 0, 0, 1, 1)");
  for (const char* row : {"'a', 'shop', 86400000000001, 5", "'b', 'shop', 86400000000002, NULL",
                          "'c', 'shop', 172800000000000, 7"}) {
    Alter(path_, absl::StrCat(
                     "INSERT INTO requests SELECT NULL, v.c1, '', 'old', v.c2, 'demo', v.c3, 0, 0, "
                     "'ok', 0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 1, 0, 1, 0, 0, 0, v.c4, "
                     "NULL, NULL, NULL FROM (SELECT column1 AS c1, column2 AS c2, column3 AS c3, "
                     "column4 AS c4 FROM (VALUES (",
                     row, "))) AS v"));
  }
  ASSERT_TRUE(Open().ok());
  EXPECT_THAT(Query(path_, "SELECT * FROM tenant_days"), ElementsAre("shop|1|5", "shop|2|7"));
  EXPECT_THAT(Query(path_, "SELECT replay_of FROM requests LIMIT 1"), ElementsAre("null"));
}

TEST_F(UsageStoreTest, SpendIsPostedWithTheRowAndOnceHoweverOftenItIsWritten) {
  const auto store = Open().value();
  std::vector<EndedRequest> ended;
  ended.push_back(MakeEnded(1));
  const std::string& tenant = ended[0].row.tenant;
  HoldChanges holds;
  holds.made.push_back({.request_id = ended[0].row.id, .tenant = tenant, .nanousd = 99});
  ASSERT_TRUE(store->Write({}, {}, holds).ok());
  EXPECT_EQ(QueryOne(path_, "SELECT tenant, held_nanousd, cut_off_nanousd FROM budget_holds"),
            tenant + "|99|null");
  // A commit that failed may have been made all the same: everything is written again.
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(store->Write(ended, {}, holds).ok());
  EXPECT_EQ(QueryOne(path_, "SELECT count(*) FROM budget_holds"), "0");
  const auto spend = store->SpendOfMonth(ended[0].row.received_utc_ns);
  ASSERT_TRUE(spend.ok()) << spend.status();
  ASSERT_EQ(spend->size(), 1u);
  EXPECT_EQ((*spend)[0].tenant, tenant);
  EXPECT_EQ((*spend)[0].nanousd, ended[0].row.cost.cost_nanousd);
  EXPECT_EQ((*spend)[0].day, DayOf(ended[0].row.received_utc_ns));
  EXPECT_THAT(store->SpendOfMonth(ended[0].row.received_utc_ns + 31 * kDayNs).value(), IsEmpty());
  holds = {.made = {}, .gone = {"nobody"}};
  EXPECT_TRUE(store->Write({}, {}, holds).ok());
}

TEST_F(UsageStoreTest, WhatAKillCutOffIsSpentAtWhatItsTimeMayHaveCostOnceAndAtMostAtItsHold) {
  const int64_t started_ns = clock_.NowNs();
  {
    const auto store = Open().value();
    HoldChanges holds;
    const RateCard card = {.id = "card", .micro_usd_per_hour = 3'600'000'000'000};
    holds.made.push_back({.request_id = "long",
                          .tenant = "a",
                          .nanousd = 9'999'999'999,
                          .held_ns = started_ns + 100,
                          .held_utc_ns = 5 * kDayNs,
                          .rate_card = card});
    holds.made.push_back({.request_id = "small",
                          .tenant = "a",
                          .nanousd = 7,
                          .held_ns = started_ns + 100,
                          .held_utc_ns = 5 * kDayNs,
                          .rate_card = card});
    holds.made.push_back({.request_id = "ended", .tenant = "a", .nanousd = 7});
    ASSERT_TRUE(store->Write({}, {}, holds).ok());
    ASSERT_TRUE(store->Write({}, {}, {.made = {}, .gone = {"ended"}}).ok());
    Period period = MakePeriod(0);
    period.start_ns = started_ns;
    period.end_ns = started_ns + 400;
    Write(store.get(), {}, {period});
  }
  for (int starts = 0; starts < 2; ++starts) {
    ASSERT_TRUE(Open().ok());
    EXPECT_THAT(
        Query(path_, "SELECT request_id, cut_off_nanousd FROM budget_holds ORDER BY request_id"),
        ElementsAre("long|300000", "small|7"))
        << "300 ns at 1,000 nano-USD";
    EXPECT_EQ(QueryOne(path_, "SELECT * FROM tenant_days"), "a|5|300007");
  }
}

}  // namespace
}  // namespace tuppence
