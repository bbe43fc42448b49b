// `ledger verify` and `store export` over stores whose every number is known.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_cat.h"
#include "service/export_books.h"
#include "service/verify_books.h"
#include "tests/service/made_store.h"

namespace tuppence {
namespace {

using ::testing::HasSubstr;

class BooksTest : public ::testing::Test {
 protected:
  BooksTest() { Fill(&store_); }

  void Fill(MadeStore* store) {
    store->Run("r", "i-a", start_);
    store->Period("r", {.seconds = 60,
                        .charges = {{"acme", "", 30 * kSecondNs, 10 * kSecondNs, 0, 0}},
                        .micro_usd_per_hour = 360'000});
    store->Period("r", {.seconds = 60,
                        .charges = {{"acme", "", 5 * kSecondNs, 0, 0, 15 * kSecondNs},
                                    {"beta", "", 2 * kSecondNs, 0, 0, 0}},
                        .micro_usd_per_hour = 360'000});
    store->End("r");
    // 0.36 USD an hour: 100,000 nano-USD a second.
    store->Request("r", {.id = "a1",
                         .machine_ns = 20 * kSecondNs,
                         .ended_ns = start_ + 40 * kSecondNs,
                         .cost_nanousd = 2'000'000});
    store->Request("r", {.id = "b1",
                         .tenant = "beta",
                         .machine_ns = 2 * kSecondNs,
                         .ended_ns = start_ + 90 * kSecondNs,
                         .cost_nanousd = 200'000});
  }

  static std::string Verify(const MadeStore& store) {
    return std::string(VerifyBooks(store.path()).status().message());
  }

  MadeStore store_;
  const int64_t start_ = Utc("2026-11-01T12:00:00Z");
};

TEST_F(BooksTest, EverySumAgrees) {
  const auto books = VerifyBooks(store_.path());
  ASSERT_TRUE(books.ok()) << books.status();
  EXPECT_EQ(books->periods, 2);
  EXPECT_EQ(books->requests, 2);
  EXPECT_EQ(books->held_ns, 120 * kSecondNs);
}

TEST_F(BooksTest, ADaysSpendIsItsRowsAndWhatWasCutOff) {
  store_.Sql("UPDATE tenant_days SET spent_nanousd = spent_nanousd + 1 WHERE tenant = 'beta'");
  EXPECT_THAT(Verify(store_), HasSubstr("tenant_days row (tenant beta, day 20758): spent_nanousd "
                                        "is 200001, computed again it is 200000"));
  store_.Sql("INSERT INTO budget_holds VALUES ('x', 'r', 'beta', 20758, 9, 0, 1, 1000000, 1)");
  EXPECT_EQ(Verify(store_), "");
  store_.Sql("DELETE FROM tenant_days WHERE tenant = 'acme'");
  EXPECT_THAT(Verify(store_), HasSubstr("is not there, and requests of it cost 2000000"));
}

TEST_F(BooksTest, NamesTheFirstRowThatDoesNotAgree) {
  const std::pair<const char*, const char*> wrong[] = {
      {"UPDATE periods SET idle_ns = idle_ns + 1 WHERE number = 1", "number 1): the sum of its"},
      {"UPDATE periods SET idle_ns = idle_ns - 1, end_ns = end_ns - 1 WHERE number = 0",
       "number 1): start_ns"},
      {"UPDATE period_charges SET request_ns = request_ns + 1 WHERE tenant = 'beta'",
       "number 1): request_ns"},
      {"UPDATE period_charges SET open_ns = open_ns + 1 WHERE number = 0", "number 0, tenant acme"},
      {"UPDATE period_charges SET lost_ns = lost_ns - 1 WHERE tenant = 'acme' AND number = 1",
       "number 1, tenant acme"},
      {"UPDATE requests SET machine_ns = machine_ns + 1 WHERE request_id = 'a1'",
       "requests row a1: machine_ns"},
      {"UPDATE requests SET machine_ns = machine_ns + 1, shared_ns = shared_ns + 1, "
       "prefill_ns = prefill_ns + 1 WHERE request_id = 'b1'",
       "number 1, tenant beta"},
      {"UPDATE requests SET cost_nanousd = 200001 WHERE request_id = 'b1'",
       "requests row b1: cost_nanousd is 200001, computed again it is 200000"},
      {"UPDATE requests SET cost_nanousd = NULL WHERE request_id = 'b1'", "requests row b1"},
      {"DELETE FROM requests WHERE request_id = 'b1'", "tenant beta"},
      {"DELETE FROM periods WHERE number = 0", "belongs to no period"},
      {"DELETE FROM rate_cards", "its rate card card is not there"},
      {"UPDATE runs SET ended_ns = ended_ns - 1", "runs row r: ended_ns"}};
  for (const auto& [change, message] : wrong) {
    MadeStore store;
    Fill(&store);
    store.Sql(change);
    EXPECT_THAT(Verify(store), HasSubstr(message)) << change;
  }
}

// A period may close at a quarter-hour just before the end of a request whose end it has booked.
TEST_F(BooksTest, ARequestThatEndsAtAQuarterHourAgrees) {
  store_.Sql(absl::StrCat("UPDATE requests SET ended_ns = ", start_ + 61 * kSecondNs,
                          " WHERE request_id = 'a1'"));
  EXPECT_EQ(Verify(store_), "");
}

TEST_F(BooksTest, RemovedRowsLeavePeriodsThatAgreeInThemselves) {
  store_.Sql("DELETE FROM requests WHERE request_id = 'a1'");
  const auto books = VerifyBooks(store_.path());
  ASSERT_TRUE(books.ok()) << books.status();
  EXPECT_EQ(books->removed_rows, 1);
}

TEST_F(BooksTest, ExportHasStableIdsAndMayBeTakenTwice) {
  const auto take = [this](int64_t since) {
    std::vector<nlohmann::json> lines;
    EXPECT_TRUE(ExportBooks(store_.path(), since, [&](const std::string& line) {
                  EXPECT_EQ(line.back(), '\n');
                  lines.push_back(nlohmann::json::parse(line));
                  return absl::OkStatus();
                }).ok());
    return lines;
  };
  const auto all = take(0);
  ASSERT_EQ(all.size(), 4u);
  EXPECT_EQ(all[0]["id"], "period:r:0");
  EXPECT_EQ(all[0]["charges"][0]["request_ns"], 30 * kSecondNs);
  EXPECT_EQ(all[2]["id"], "request:a1");
  EXPECT_EQ(all[2]["cost_nanousd"], 2'000'000);
  const auto later = take(start_ + 60 * kSecondNs);
  ASSERT_EQ(later.size(), 2u);
  std::set<std::string> ids;
  for (const auto& line : all) ids.insert(line["id"].get<std::string>());
  for (const auto& line : later) EXPECT_EQ(ids.count(line["id"].get<std::string>()), 1u);
}

TEST(BooksFileTest, WhatIsNoStoreIsRefusedByName) {
  EXPECT_THAT(std::string(VerifyBooks("/no/such.db").status().message()),
              HasSubstr("--usage-store"));
  EXPECT_THAT(std::string(VerifyBooks("/proc/self/exe").status().message()),
              HasSubstr("is not a usage store"));
  MadeStore newer;
  newer.Sql("PRAGMA user_version = 99");
  EXPECT_THAT(std::string(VerifyBooks(newer.path()).status().message()), HasSubstr("version 99"));
}

}  // namespace
}  // namespace tuppence
