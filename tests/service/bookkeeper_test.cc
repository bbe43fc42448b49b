// The bookkeeper between an engine's records and a store, on a disk that fills up, fails to sync
// and gets well again: who is told what, and when; what is in the store afterwards.
#include "service/bookkeeper.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <chrono>

#include "scheduler/engine.h"
#include "scheduler/null_executor.h"
#include "scheduler/refusal.h"
#include "service/usage_store.h"
#include "service/verify_books.h"
#include "tests/service/usage_files.h"
#include "tests/support/crash_disk.h"

namespace tuppence {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class CountingObserver final : public RecordObserver {
 public:
  void Observe(const StepRecord& record) override {
    ended += static_cast<int64_t>(record.ended.size());
  }
  void ObserveCommit(int64_t commit_ns, int64_t rows_now) override {
    EXPECT_GT(commit_ns, 0);
    rows += rows_now;
  }
  void ObserveClosing(int64_t) override { ++closings; }

  std::atomic<int64_t> ended = 0, rows = 0, closings = 0;
};

template <typename Done>
bool Soon(const Done& done) {
  for (int i = 0; i < 10'000; ++i) {
    if (done()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

// What a caller's stream has carried: its end, once it came.
class Caller {
 public:
  explicit Caller(std::shared_ptr<TokenStream> stream) : stream_(std::move(stream)) {}
  bool told() {
    if (!end_.has_value() && stream_->Take(&delta_)) end_ = delta_.end;
    return end_.has_value();
  }
  const RequestEnd& end() {
    EXPECT_TRUE(Soon([this] { return told(); }));
    if (!end_.has_value()) end_.emplace();
    return *end_;
  }

 private:
  std::shared_ptr<TokenStream> stream_;
  StreamDelta delta_;
  std::optional<RequestEnd> end_;
};

class BookkeeperTest : public testing::TestWithParam<CrashDisk::Fault> {
 protected:
  BookkeeperTest() {
    options_.unrecorded = &unrecorded_;
    options_.retry_ns = 5'000'000;
  }
  ~BookkeeperTest() override {
    disk_.Repair();
    End();
  }

  void OpenStore(int64_t started_ns) {
    auto store =
        UsageStore::Open({.path = path_, .vfs = disk_.name()}, {.started_ns = started_ns}, &clock_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    ASSERT_TRUE(store_->NameModel("demo", "a").ok());
  }
  void Begin(bool with_store = true) {
    if (with_store) OpenStore(clock_.NowNs());
    books_.emplace(options_, store_.get(), &records_, &notifier_, &observer_, &clock_);
  }
  void End() {
    records_.Close();
    books_.reset();
  }
  void Break() { disk_.Plan(GetParam(), 0); }
  void ServeWithBudgets(Budgets* budgets) {
    budgets->SetBudgets({.tenants = {}, .others = Budget{1'000'000, BudgetSpan::kMonth}});
    options_.budgets = budgets;
    options_.when_unrecordable = WhenUnrecordable::kServe;
  }
  static absl::Status HoldFor(const EndedRequest& ended, Budgets* budgets) {
    return budgets->Hold({.request_id = ended.row.id,
                          .tenant = ended.row.tenant,
                          .nanousd = 1,
                          .held_utc_ns = ended.row.received_utc_ns});
  }

  Caller Publish(EndedRequest ended) {
    Caller caller(ended.stream);
    records_.current()->ended.push_back(std::move(ended));
    EXPECT_TRUE(records_.Publish());
    return caller;
  }
  Caller Publish(int64_t number) { return Publish(MakeEnded(number)); }
  std::vector<std::string> Rows() {
    return Query(path_, "SELECT request_id FROM requests ORDER BY sequence");
  }
  bool refuses() { return !books_->MayRecord().ok(); }

  SteadyClock clock_;
  const std::string path_ = EmptyFolder() + "/usage.db";
  CrashDisk disk_{1};
  std::unique_ptr<UsageStore> store_;
  StepRecords records_{64, 16};
  StreamNotifier notifier_;
  CountingObserver observer_;
  std::atomic<bool> unrecorded_ = false;
  BookkeeperOptions options_;
  std::optional<Bookkeeper> books_;
};

using BrokenDiskTest = BookkeeperTest;
TEST_P(BrokenDiskTest, AHoldIsInTheStoreUntilTheRowIsAndTheRowsCostIsSpentFromThenOn) {
  Budgets budgets;
  budgets.SetBudgets({.tenants = {}, .others = Budget{1'000'000, BudgetSpan::kMonth}});
  options_.budgets = &budgets;
  Begin();
  EndedRequest ended = MakeEnded(1);
  const std::string tenant = ended.row.tenant;
  const int64_t cost_nanousd = ended.row.cost.cost_nanousd;
  const int64_t utc_ns = ended.row.received_utc_ns;
  ASSERT_TRUE(
      budgets
          .Hold(
              {.request_id = ended.row.id, .tenant = tenant, .nanousd = 100, .held_utc_ns = utc_ns})
          .ok());
  Publish(2).end();  // as the record of any step does
  EXPECT_EQ(QueryOne(path_, "SELECT tenant, held_nanousd FROM budget_holds"), tenant + "|100");
  const auto state = [&] {
    for (const BudgetState& one : budgets.States(utc_ns, 9)) {
      if (one.tenant == tenant) return one;
    }
    return BudgetState();
  };
  Break();
  Caller caller = Publish(std::move(ended));
  EXPECT_TRUE(Soon([&] { return refuses(); }));
  EXPECT_EQ(state().held_nanousd, 100) << "its row is not stored yet";
  EXPECT_EQ(state().spent_nanousd, 0);
  disk_.Repair();
  EXPECT_TRUE(caller.end().status.ok());
  EXPECT_EQ(state().held_nanousd, 0);
  EXPECT_EQ(state().spent_nanousd, cost_nanousd);
  EXPECT_EQ(QueryOne(path_, "SELECT count(*) FROM budget_holds"), "0");
  EXPECT_EQ(
      QueryOne(path_, "SELECT spent_nanousd FROM tenant_days WHERE tenant = '" + tenant + "'"),
      absl::StrCat(cost_nanousd));
  End();
}

// Or what waits would grow for as long as the disk is full.
TEST_P(BrokenDiskTest, HoldsThatBeganAndEndedMeanwhileNeverReachTheStore) {
  Budgets budgets;
  ServeWithBudgets(&budgets);
  Begin();
  Publish(0).end();
  Alter(path_, "CREATE TABLE seen (what TEXT)");
  for (const char* what : {"INSERT", "DELETE"}) {
    Alter(path_,
          absl::StrCat("CREATE TRIGGER ", what, "_seen AFTER ", what,
                       " ON budget_holds BEGIN INSERT INTO seen VALUES ('", what, "'); END"));
  }
  Break();
  Publish(1).end();
  ASSERT_TRUE(unrecorded_);
  const auto unrecorded = [](int64_t number) {
    EndedRequest ended = MakeEnded(number);
    ended.row.unrecorded = true;
    return ended;
  };
  for (int64_t number = 2; number < 100; number += 2) {
    EndedRequest ended = unrecorded(number);
    ASSERT_TRUE(HoldFor(ended, &budgets).ok());
    Publish(unrecorded(number + 1)).end();  // with it the books take the hold
    Publish(std::move(ended)).end();
  }
  disk_.Repair();
  ASSERT_TRUE(Soon([&] { return !unrecorded_; }));
  Publish(100).end();
  EXPECT_THAT(Query(path_, "SELECT what FROM seen"), IsEmpty());
  EXPECT_THAT(Rows(), ElementsAre("request-0", "request-1", "request-100"));
  End();
}

// A hold is what could not be written; then its request has ended, and nothing waits any more.
TEST_P(BrokenDiskTest, WhatWritesNothingIsNoSignThatTheDiskIsWell) {
  Budgets budgets;
  ServeWithBudgets(&budgets);
  Begin();
  Publish(0).end();
  Break();
  EndedRequest ended = MakeEnded(1);
  ASSERT_TRUE(HoldFor(ended, &budgets).ok());
  ASSERT_TRUE(Soon([&] { return unrecorded_.load(); }));
  ended.row.unrecorded = true;
  Publish(std::move(ended)).end();
  const int64_t failed = books_->Snapshot().commits_failed;
  EXPECT_TRUE(Soon([&] { return books_->Snapshot().commits_failed >= failed + 3; }));
  EXPECT_TRUE(unrecorded_);
  disk_.Repair();
  EXPECT_TRUE(Soon([&] { return !unrecorded_; }));
  End();
}

INSTANTIATE_TEST_SUITE_P(Disks, BrokenDiskTest,
                         testing::Values(CrashDisk::Fault::kFull, CrashDisk::Fault::kNoSync),
                         [](const auto& info) {
                           return info.param == CrashDisk::Fault::kFull ? "Full" : "FailingSync";
                         });

TEST_F(BookkeeperTest, ARowIsInTheStoreBeforeItsCallerIsTold) {
  Begin();
  for (int number = 0; number < 20; ++number) {
    Caller caller = Publish(number);
    EXPECT_EQ(caller.end().cost.machine_ns, 1000 + number);
    EXPECT_EQ(Rows().size(), static_cast<size_t>(number + 1));
    EXPECT_FALSE(caller.end().cost.unrecorded);
  }
  EXPECT_TRUE(Soon([&] { return observer_.closings == 20; }));
  EXPECT_EQ(observer_.ended, 20);
  EXPECT_EQ(observer_.rows, 20);
  EXPECT_EQ(books_->Snapshot().rows_stored, 20);
  EXPECT_EQ(books_->Snapshot().rows_waiting, 0);
}

TEST_F(BookkeeperTest, WithoutAStoreEndsGoAtOnce) {
  Begin(/*with_store=*/false);
  EXPECT_EQ(Publish(3).end().cost.machine_ns, 1003);
  EXPECT_TRUE(books_->MayRecord().ok());
  EXPECT_TRUE(Soon([&] { return observer_.closings == 1; }));
}

TEST_F(BookkeeperTest, AnswersAndRowsCarryTheReferencePriceAndWhatWasWrittenOff) {
  options_.reference = [](const Usage& usage) {
    return ReferenceQuote{usage.prompt_tokens * 1000, "an-api"};
  };
  Begin();
  EndedRequest failed = MakeEnded(5);
  failed.row.written_off = true;
  const Cost cost = Publish(std::move(failed)).end().cost;
  EXPECT_TRUE(cost.written_off);
  ASSERT_TRUE(cost.has_reference);
  EXPECT_EQ(cost.reference_nanousd, 15'000);
  EXPECT_EQ(cost.reference_id, "an-api");
  EXPECT_EQ(QueryOne(path_, "SELECT reference_nanousd, reference_id, written_off FROM requests"),
            "15000|an-api|1");
}

TEST_F(BookkeeperTest, ARunEndsWithItsLastPeriod) {
  Begin();
  records_.current()->periods = {MakePeriod(0), MakePeriod(1)};
  ASSERT_TRUE(records_.Publish());
  End();
  EXPECT_EQ(QueryOne(path_, "SELECT ended_ns FROM runs"), absl::StrCat(MakePeriod(1).end_ns));
  EXPECT_EQ(QueryOne(path_, "SELECT count(*) FROM periods"), "2");
}

TEST_P(BrokenDiskTest, RefuseTurnsNewRequestsAwayAndDropsNothing) {
  Begin();
  Break();
  Caller first = Publish(1);
  ASSERT_TRUE(Soon([&] { return refuses(); }));
  const absl::Status refused = books_->MayRecord();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(refused.ToString(), HasSubstr("another replica"));
  EXPECT_EQ(RefusalOf(refused)->reason, "UNRECORDABLE");
  EXPECT_EQ(RefusalOf(refused)->retry_after_ms, 5);
  Caller second = Publish(2);  // it ran already
  ASSERT_TRUE(Soon([&] { return books_->Snapshot().commits_failed > 2; }));
  EXPECT_FALSE(first.told() || second.told());
  EXPECT_TRUE(books_->Snapshot().unrecordable);
  EXPECT_EQ(books_->Snapshot().rows_waiting, 2);
  EXPECT_FALSE(unrecorded_) << "the engine books as ever";

  disk_.Repair();
  EXPECT_TRUE(first.end().status.ok());
  EXPECT_TRUE(second.end().status.ok());
  EXPECT_FALSE(second.end().cost.unrecorded);
  EXPECT_THAT(Rows(), ElementsAre("request-1", "request-2"));
  EXPECT_FALSE(refuses());
  EXPECT_FALSE(books_->Snapshot().unrecordable);
}

TEST_P(BrokenDiskTest, ItRecoversThoughNothingWaits) {
  Begin();
  Break();
  EndedRequest late = MakeEnded(1);
  late.deadline_ns = clock_.NowNs();
  Publish(std::move(late)).end();
  ASSERT_TRUE(refuses());
  disk_.Repair();
  EXPECT_TRUE(Soon([&] { return !refuses(); }));
  Break();
  Publish(2);
  EXPECT_TRUE(Soon([&] { return refuses(); })) << "and notices the next time";
}

TEST_P(BrokenDiskTest, ACallerWhoseDeadlinePassesDoesNotWaitForTheDisk) {
  Begin();
  Break();
  EndedRequest ended = MakeEnded(1);
  ended.deadline_ns = clock_.NowNs() + 20'000'000;
  Caller caller = Publish(std::move(ended));
  EXPECT_EQ(caller.end().status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(caller.end().cost.machine_ns, 1001);
  disk_.Repair();
  ASSERT_TRUE(Soon([&] { return !refuses(); }));
  EXPECT_THAT(Rows(), ElementsAre("request-1")) << "what was booked is stored";
}

TEST_P(BrokenDiskTest, ServeAnswersUnrecordedUntilTheDiskIsWell) {
  options_.when_unrecordable = WhenUnrecordable::kServe;
  Begin();
  Break();
  EXPECT_TRUE(Publish(1).end().cost.unrecorded);
  EXPECT_TRUE(unrecorded_) << "the engine books to the unrecorded account from now on";
  EXPECT_FALSE(refuses());
  EndedRequest meanwhile = MakeEnded(2);
  meanwhile.row.unrecorded = true;  // as the engine says then
  Caller second = Publish(std::move(meanwhile));
  EXPECT_TRUE(second.end().cost.unrecorded);
  EXPECT_TRUE(second.end().status.ok());
  disk_.Repair();
  ASSERT_TRUE(Soon([&] { return !unrecorded_; }));
  EXPECT_FALSE(Publish(3).end().cost.unrecorded);
  EXPECT_THAT(Rows(), ElementsAre("request-1", "request-3"))
      << "the first was booked to the request account, the second was not";
  EXPECT_EQ(books_->Snapshot().unrecorded_requests, 1);
}

TEST_P(BrokenDiskTest, AnEndInGoodOrderDoesNotWaitForEver) {
  options_.give_up_ns = 30'000'000;
  Begin();
  Break();
  Caller caller = Publish(1);
  books_->FinishTelling();
  EXPECT_EQ(caller.end().status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(RefusalOf(caller.end().status)->reason, "UNRECORDABLE");
  End();
  disk_.Repair();
  EXPECT_THAT(Rows(), IsEmpty());
  EXPECT_EQ(QueryOne(path_, "SELECT ended_ns FROM runs"), "null");
}

// An engine, its books and its store, while the disk breaks and gets well.
class EngineAndStoreTest : public BookkeeperTest {
 protected:
  static constexpr int kRequests = 300;

  EngineOptions Options() {
    EngineOptions options;
    options.blocks = 512;
    options.sequences_max = 16;
    options.logit_rows_max = 16;
    options.idle_beat_ns = 5'000'000;
    options.period_ns = 1'000'000;
    options.process_start_ns = started_ns_;
    options.rate_card = {.id = "card", .micro_usd_per_hour = 526'000};
    options.records = &records_;
    options.unrecorded = &unrecorded_;
    return options;
  }
  Caller Ask(Engine* engine, int number) {
    Request request;
    request.id = absl::StrCat("request-", number);
    request.tenant = absl::StrCat("tenant-", number % 3);
    request.prompt.assign(1 + number % 50, 7);
    request.sampling.max_tokens = 1 + number % 20;
    request.sampling.seed = 1;
    request.text_output = false;
    request.received_ns = clock_.NowNs();
    request.stream = std::make_shared<TokenStream>(1, TokenStream::Limits{});
    Caller caller(request.stream);
    if (number % 17 == 0) request.stream->Cancel();
    EXPECT_TRUE(engine->Submit(std::move(request)).ok());
    return caller;
  }
  int64_t Sum(const std::string& sql) { return std::stoll(QueryOne(path_, sql)); }

  // With `fault` the disk is broken for the middle third of the requests.
  void RunAll(CrashDisk::Fault fault) {
    OpenStore(started_ns_);
    NullExecutor executor(1000);
    Engine engine(Options(), &executor, nullptr, &clock_);
    books_.emplace(options_, store_.get(), &records_, engine.notifier(), &observer_, &clock_);
    engine.Start();
    std::vector<Caller> callers;
    for (int number = 0; number < kRequests; ++number) {
      if (number == kRequests / 3) disk_.Plan(fault, 0);
      if (number == kRequests * 2 / 3) {
        if (fault != CrashDisk::Fault::kNone) {
          EXPECT_TRUE(Soon([&] { return books_->Snapshot().unrecordable; }));
        }
        callers.push_back(Ask(&engine, kRequests));
        EXPECT_TRUE(Soon([&] { return engine.Snapshot().requests_ended > number; }));
        disk_.Repair();
        EXPECT_TRUE(Soon([&] { return !books_->Snapshot().unrecordable; }));
      }
      callers.push_back(Ask(&engine, number));
    }
    engine.Drain(clock_.NowNs() + 10'000'000'000);
    books_->FinishTelling();
    for (Caller& caller : callers) told_.push_back(caller.end().cost);
    engine.Stop();
    books_.reset();
    EXPECT_EQ(engine.Snapshot().conservation_error_ns, 0);
  }

  // Periods cover the run without a gap; rows, with what was lost, make up the request account.
  void ExpectBooksAddUp() {
    EXPECT_EQ(QueryOne(path_, "SELECT ended_ns - started_ns FROM runs"),
              QueryOne(path_,
                       "SELECT sum(startup_ns + idle_ns + request_ns + overhead_ns + drain_ns "
                       "+ unrecorded_ns) FROM periods"));
    EXPECT_EQ(Sum("SELECT sum(request_ns) FROM periods"),
              Sum("SELECT sum(machine_ns - unrecorded_ns) FROM requests") +
                  Sum("SELECT sum(lost_ns) FROM period_charges"));
    EXPECT_EQ(Sum("SELECT sum(request_ns) FROM period_charges"),
              Sum("SELECT sum(request_ns) FROM periods"));
    EXPECT_GT(Sum("SELECT count(*) FROM periods"), 1);
    int64_t machine_ns = 0;
    for (const Cost& cost : told_) machine_ns += cost.machine_ns;
    EXPECT_EQ(machine_ns, Sum("SELECT sum(request_ns + unrecorded_ns) FROM periods"));
    const auto verified = VerifyBooks(path_);  // rows and open charges at the end of every period
    EXPECT_TRUE(verified.ok()) << verified.status();
  }
  int64_t told_unrecorded() const {
    return std::count_if(told_.begin(), told_.end(), [](const Cost& c) { return c.unrecorded; });
  }

  std::vector<Cost> told_;
  const int64_t started_ns_ = clock_.NowNs();
};

TEST_F(EngineAndStoreTest, RowsAndPeriodsAddUpToTheNanosecond) {
  RunAll(CrashDisk::Fault::kNone);
  ExpectBooksAddUp();
  EXPECT_EQ(Rows().size(), kRequests + 1u);
  EXPECT_EQ(told_unrecorded(), 0);
}

TEST_F(EngineAndStoreTest, TheyDoWhenTheDiskWasFullAndNewWorkWasRefused) {
  RunAll(CrashDisk::Fault::kFull);
  ExpectBooksAddUp();
  EXPECT_EQ(Rows().size(), kRequests + 1u) << "nothing that ended is missing";
  EXPECT_EQ(told_unrecorded(), 0);
}

TEST_F(EngineAndStoreTest, TheyDoWhenAnswersWentOnUnrecorded) {
  options_.when_unrecordable = WhenUnrecordable::kServe;
  RunAll(CrashDisk::Fault::kNoSync);
  ExpectBooksAddUp();
  EXPECT_GT(told_unrecorded(), 0);
  EXPECT_GE(Rows().size(), kRequests + 1u - told_unrecorded());
  EXPECT_LT(Rows().size(), kRequests + 1u);
  EXPECT_GT(Sum("SELECT sum(unrecorded_ns) FROM periods"), 0);
}

}  // namespace
}  // namespace tuppence
