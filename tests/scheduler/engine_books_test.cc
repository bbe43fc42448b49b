// The engine and the books: what it hands over, when it holds back, and that whatever happens rows,
// open charges and periods agree to the nanosecond.
#include <atomic>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "scheduler/null_executor.h"
#include "tests/scheduler/engine_harness.h"
#include "tests/support/fake_clock.h"

namespace tuppence {
namespace {

// The books' thread, on the test's: takes records down and sends the ends.
class TestBooks {
 public:
  explicit TestBooks(int32_t records = 8) : records(records, 64) {}

  void TakeOne() {
    StepRecord* record = records.Front();
    ASSERT_NE(record, nullptr);
    for (const StepSummary& step : record->steps) steps.push_back(step);
    for (const Period& period : record->periods) periods.push_back(period);
    first_tokens += static_cast<int64_t>(record->time_to_first_token_ns.size());
    later_tokens += static_cast<int64_t>(record->inter_token_ns.size());
    for (EndedRequest& ended : record->ended) {
      rows.push_back(ended.row);
      ended.stream->End(std::move(ended.end));
    }
    records.Release();
  }
  void TakeAll() {
    while (records.Front() != nullptr) TakeOne();
  }
  const RequestRow& row(const std::string& id) const {
    for (const RequestRow& row : rows) {
      if (row.id == id) return row;
    }
    ADD_FAILURE() << "no row " << id;
    return rows.front();
  }

  StepRecords records;
  std::vector<StepSummary> steps;
  std::vector<Period> periods;
  std::vector<RequestRow> rows;
  int64_t first_tokens = 0;
  int64_t later_tokens = 0;
};

// Periods alone add up to the elapsed time; rows, open charges and what was lost to the request
// account, for each tenant.
void ExpectBooksAgree(const TestBooks& books, int64_t start_ns, int64_t end_ns) {
  std::map<std::string, int64_t> rows_ns;
  std::map<std::string, int64_t> request_ns;
  std::map<std::string, int64_t> lost_ns;
  std::map<std::string, int64_t> written_off_ns;
  int64_t unrecorded_ns = 0;
  for (const RequestRow& row : books.rows) {
    EXPECT_EQ(row.cost.machine_ns, row.cost.shared_ns + row.cost.own_ns);
    EXPECT_EQ(row.cost.machine_ns, row.cost.prefill_ns + row.cost.decode_ns);
    unrecorded_ns += row.unrecorded_ns;
    if (row.unrecorded) continue;
    rows_ns[row.tenant] += row.cost.machine_ns - row.unrecorded_ns;
    if (row.written_off) written_off_ns[row.tenant] += row.cost.machine_ns - row.unrecorded_ns;
  }
  for (const Period& period : books.periods) {
    EXPECT_EQ(period.start_ns, start_ns);
    EXPECT_EQ(period.accounts.sum_ns(), period.end_ns - period.start_ns);
    start_ns = period.end_ns;
    unrecorded_ns -= period.accounts.unrecorded_ns;
    int64_t tenants_ns = 0;
    for (const TenantCharges& tenant : period.tenants) {
      request_ns[tenant.tenant] += tenant.request_ns;
      lost_ns[tenant.tenant] += tenant.lost_ns;
      written_off_ns[tenant.tenant] -= tenant.written_off_ns;
      tenants_ns += tenant.request_ns;
      EXPECT_GE(tenant.open_ns, 0);
      EXPECT_TRUE(&period != &books.periods.back() || tenant.open_ns == 0);
    }
    EXPECT_EQ(tenants_ns, period.accounts.request_ns);
  }
  EXPECT_EQ(start_ns, end_ns);
  EXPECT_EQ(unrecorded_ns, 0);
  for (const auto& [tenant, ns] : request_ns) {
    EXPECT_EQ(ns, rows_ns[tenant] + lost_ns[tenant]) << tenant;
    EXPECT_EQ(written_off_ns[tenant], 0) << tenant;
  }
}

EngineOptions WithBooks(TestBooks& books) {
  EngineOptions options = SmallEngineOptions();
  options.records = &books.records;
  options.books_limit_ns = 50'000'000;
  return options;
}

TEST(EngineBooksTest, TheEndComesOnceTheBooksHaveTheRowAndTextComesBefore) {
  TestBooks books;
  EngineHarness harness(WithBooks(books));
  Request request = MakeRequest("r", 5, 4);
  request.caller_id = "theirs";
  harness.Submit(request);
  for (int i = 0; i < 10; ++i) harness.Step();
  EXPECT_EQ(harness.received(0).token_ids[0].size(), 4u) << "text is never held back";
  EXPECT_EQ(harness.received(0).finish_reasons[0], FinishReason::kLength);
  EXPECT_FALSE(harness.ended(0));
  books.TakeAll();
  harness.ReadAll();
  ASSERT_TRUE(harness.ended(0));
  harness.ExpectWhole(0);
  ASSERT_EQ(books.rows.size(), 1u);
  const RequestRow& row = books.rows[0];
  const RequestEnd& end = *harness.received(0).end;
  EXPECT_EQ(row.id, "r");
  EXPECT_EQ(row.caller_id, "theirs");
  EXPECT_EQ(row.tenant, "tenant");
  EXPECT_EQ(row.reason, FinishReason::kLength);
  EXPECT_EQ(row.code, absl::StatusCode::kOk);
  EXPECT_EQ(row.cost.machine_ns, end.cost.machine_ns);
  EXPECT_EQ(row.cost.cost_nanousd, end.cost.cost_nanousd);
  EXPECT_EQ(row.ended_utc_ns - row.received_utc_ns, end.usage.total_ns);
  EXPECT_EQ(row.usage.completion_tokens, 4);
}

TEST(EngineBooksTest, ARecordSaysWhatItsStepWas) {
  TestBooks books(64);
  EngineHarness harness(WithBooks(books));
  harness.Submit(MakeRequest("a", 10, 5, 1));
  Request two = MakeRequest("b", 6, 5, 2);
  two.sampling.choices = 2;
  harness.Submit(two);
  std::vector<StepCostCoefficients> used;
  for (int i = 0; i < 10; ++i) {
    used.push_back(harness.engine().ledger().model().coefficients());
    harness.Step();
  }
  books.TakeAll();
  ASSERT_EQ(books.steps.size(), 5u);
  for (size_t i = 0; i < 5; ++i) EXPECT_TRUE(books.steps[i].coefficients == used[i]) << i;
  EXPECT_EQ(books.steps[0].prefill_tokens, 16);
  EXPECT_EQ(books.steps[0].decode_tokens, 0);
  EXPECT_EQ(books.steps[0].requests, 2);
  for (size_t i = 1; i < 5; ++i) {
    EXPECT_EQ(books.steps[i].prefill_tokens, 0);
    EXPECT_EQ(books.steps[i].decode_tokens, 3);
    EXPECT_EQ(books.steps[i].sequences, 3);
  }
  int64_t machine_ns = 0;
  int64_t shared_ns = 0;
  for (const StepSummary& step : books.steps) {
    machine_ns += step.step_ns;
    shared_ns += step.launch_and_weights_ns;
    EXPECT_GT(step.modelled_ns, 0);
  }
  EXPECT_EQ(machine_ns, books.rows[0].cost.machine_ns + books.rows[1].cost.machine_ns);
  EXPECT_EQ(shared_ns, books.rows[0].cost.shared_ns + books.rows[1].cost.shared_ns);
  EXPECT_EQ(books.first_tokens, 2) << "one for each request";
  EXPECT_EQ(books.later_tokens, 3 * 4) << "R choices of T tokens: R x (T - 1)";
}

TEST(EngineBooksTest, BlockSecondsAreBlocksTimesTime) {
  TestBooks books(64);
  EngineHarness harness(WithBooks(books));
  harness.Submit(MakeRequest("r", 4, 4));  // 4 tokens a block: one block, then two
  std::vector<int64_t> ends_ns = {harness.clock().NowNs()};
  for (int i = 0; i < 4; ++i) {
    harness.Step();
    ends_ns.push_back(harness.clock().NowNs());
  }
  books.TakeAll();
  const int64_t one_ns = ends_ns[1] - ends_ns[0];
  const int64_t two_ns = ends_ns[4] - ends_ns[1];
  EXPECT_DOUBLE_EQ(books.row("r").kv_block_seconds, 1e-9 * (one_ns + 2 * two_ns));
}

TEST(EngineBooksTest, AFullRingStopsArrivalsAndNoStep) {
  TestBooks books(2);
  EngineOptions options = WithBooks(books);
  options.inbox_max = 3;
  EngineHarness harness(options);
  harness.Submit(MakeRequest("running", 4, 30));
  for (int i = 0; i < 5; ++i) harness.Step();
  EXPECT_TRUE(harness.engine().Snapshot().records_full);
  const int64_t steps = harness.engine().Snapshot().steps;
  for (int32_t i = 0; i < 3; ++i) harness.Submit(MakeRequest(absl::StrCat("w", i), 4, 3));
  const absl::Status refused = harness.engine().Submit(MakeRequest("fourth", 4, 3));
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable) << "the inbox is still bounded";
  for (int i = 0; i < 5; ++i) harness.Step();
  const EngineSnapshot snapshot = harness.engine().Snapshot();
  EXPECT_EQ(snapshot.steps, steps + 5);
  EXPECT_EQ(snapshot.requests_accepted, 1);
  EXPECT_EQ(snapshot.waiting, 3) << "they wait, and are counted";
  EXPECT_EQ(harness.received(0).token_ids[0].size(), 10u) << "text goes on";
  for (int i = 0; i < 60; ++i) {
    harness.Step();
    books.TakeAll();
  }
  harness.ReadAll();
  for (int32_t i = 0; i < 4; ++i) harness.ExpectWhole(i);
  harness.ExpectAtRest();
  EXPECT_EQ(books.steps.size(), static_cast<size_t>(harness.engine().Snapshot().steps))
      << "none was lost while the ring was full";
}

TEST(EngineBooksTest, DrainedMeansThatTheBooksWereTold) {
  TestBooks books(1);
  EngineHarness harness(WithBooks(books));
  harness.Submit(MakeRequest("r", 4, 3));
  harness.Step();
  harness.engine().BeginDrain(harness.clock().NowNs() + kSecondNs);
  for (int i = 0; i < 5; ++i) harness.Step();
  EXPECT_FALSE(harness.engine().drained()) << "the row waits for room";
  books.TakeAll();
  harness.Step();
  EXPECT_TRUE(harness.engine().drained());
  books.TakeAll();
  EXPECT_EQ(books.rows.size(), 1u);
}

TEST(EngineBooksTest, ADiskThatHangsDoesNotKeepADrainForEver) {
  TestBooks books(1);
  EngineHarness harness(WithBooks(books));
  harness.Submit(MakeRequest("r", 4, 3));
  harness.Step();
  harness.engine().BeginDrain(harness.clock().NowNs() + kSecondNs);
  for (int i = 0; i < 5; ++i) harness.Step();
  EXPECT_FALSE(harness.engine().drained());
  harness.clock().Advance(harness.options().books_limit_ns);
  harness.Step();
  EXPECT_TRUE(harness.engine().drained());
  harness.engine().Stop();
  harness.ReadAll();
  EXPECT_TRUE(harness.ended(0)) << "its caller hears the end all the same";
}

TEST(EngineBooksTest, TheLastPeriodReachesToTheStop) {
  TestBooks books;
  EngineHarness harness(WithBooks(books));
  const int64_t start_ns = harness.clock().NowNs();
  harness.clock().Advance(1'234);
  harness.Submit(MakeRequest("r", 4, 30));
  harness.Step();
  harness.clock().Advance(777);
  harness.engine().Stop();
  books.TakeAll();
  EXPECT_TRUE(books.records.closed());
  ASSERT_FALSE(books.periods.empty());
  EXPECT_EQ(books.periods.front().accounts.startup_ns, 1'234);
  EXPECT_EQ(books.row("r").reason, FinishReason::kDrained);
  ExpectBooksAgree(books, start_ns, harness.clock().NowNs());
}

TEST(EngineBooksTest, TheStartupIsAPeriodOfItsOwn) {
  TestBooks books(64);
  EngineHarness harness(WithBooks(books));
  const int64_t start_ns = harness.clock().NowNs();
  harness.clock().Advance(1'234);
  harness.Submit(MakeRequest("r", 4, 30));
  harness.Step();
  books.TakeAll();
  ASSERT_EQ(books.periods.size(), 1u) << "known to the books after the first step";
  const Period startup = books.periods[0];
  EXPECT_EQ(startup.start_ns, start_ns);
  EXPECT_EQ(startup.accounts.startup_ns, 1'234);
  EXPECT_EQ(startup.accounts.sum_ns(), 1'234);
  EXPECT_EQ(startup.rate_card, harness.options().rate_card);
  harness.engine().Stop();
  books.TakeAll();
  ASSERT_EQ(books.periods.size(), 2u) << "the next one lasts its minute";
  EXPECT_EQ(books.periods[1].accounts.startup_ns, 0);
  EXPECT_EQ(books.periods[1].start_ns, startup.end_ns);
}

TEST(EngineBooksTest, OurOwnFaultIsBookedAndPricedAtNothing) {
  TestBooks books;
  EngineHarness harness(WithBooks(books));
  const int64_t start_ns = harness.clock().NowNs();
  harness.executor().not_finite = [](const SamplingRow& row) {
    return row.key.seed == 66 && row.output_index == 2;
  };
  harness.Submit(MakeRequest("good", 5, 6, 1));
  harness.Submit(MakeRequest("bad", 5, 6, 66));
  for (int i = 0; i < 8; ++i) harness.Step();
  harness.engine().Stop();
  books.TakeAll();
  const RequestRow& bad = books.row("bad");
  EXPECT_TRUE(bad.written_off);
  EXPECT_GT(bad.cost.machine_ns, 0);
  EXPECT_TRUE(bad.cost.has_rate);
  EXPECT_EQ(bad.cost.cost_nanousd, 0);
  EXPECT_EQ(bad.code, absl::StatusCode::kInternal);
  EXPECT_GT(books.row("good").cost.cost_nanousd, 0);
  ASSERT_EQ(books.periods.size(), 1u);
  EXPECT_EQ(books.periods[0].tenants[0].written_off_ns, bad.cost.machine_ns);
  ExpectBooksAgree(books, start_ns, harness.clock().NowNs());
}

TEST(EngineBooksTest, AnAnswerMadeAgainIsBookedAndPricedAtNothing) {
  TestBooks books;
  EngineHarness harness(WithBooks(books));
  const int64_t start_ns = harness.clock().NowNs();
  Request replay = MakeRequest("replay", 5, 6, 2);
  replay.replay_of = "first";
  harness.Submit(MakeRequest("other", 5, 6, 1));
  harness.Submit(std::move(replay));
  for (int i = 0; i < 8; ++i) harness.Step();
  harness.engine().Stop();
  books.TakeAll();
  const RequestRow& row = books.row("replay");
  EXPECT_EQ(row.code, absl::StatusCode::kOk);
  EXPECT_TRUE(row.written_off);
  EXPECT_EQ(row.cost.replay_of, "first");
  EXPECT_GT(row.cost.machine_ns, 0);
  EXPECT_EQ(row.cost.cost_nanousd, 0);
  EXPECT_EQ(books.row("other").cost.replay_of, "");
  EXPECT_GT(books.row("other").cost.cost_nanousd, 0);
  ExpectBooksAgree(books, start_ns, harness.clock().NowNs());
}

TEST(EngineBooksTest, ANewRateCardTakesEffectAtTheEndOfTheStep) {
  TestBooks books(64);
  EngineHarness harness(WithBooks(books));
  harness.Submit(MakeRequest("r", 5, 6));
  for (int i = 0; i < 3; ++i) harness.Step();
  RateCard dearer = harness.options().rate_card;
  dearer.id = "dearer";
  dearer.micro_usd_per_hour = 7'654'321;
  harness.engine().SetRateCard(dearer);
  EXPECT_EQ(harness.engine().rate_card().id, "dearer");
  for (int i = 0; i < 3; ++i) harness.Step();
  harness.engine().SetRateCard(dearer);  // the same again changes nothing
  harness.Step();
  harness.engine().Stop();
  books.TakeAll();
  ASSERT_EQ(books.periods.size(), 2u);
  ExactMoney money = 0;
  for (const Period& period : books.periods) {
    money += ExactMoneyOf(period.rate_card, period.accounts.request_ns);
  }
  EXPECT_EQ(books.row("r").cost.cost_nanousd, NanoUsd(money)) << "alone it paid all of it";
  EXPECT_EQ(books.row("r").cost.rate_card_id, "dearer");
}

TEST(EngineBooksTest, WhileNothingCanBeRecordedTimeIsUnrecorded) {
  TestBooks books(64);
  std::atomic<bool> unrecorded = false;
  EngineOptions options = WithBooks(books);
  options.unrecorded = &unrecorded;
  EngineHarness harness(options);
  const int64_t start_ns = harness.clock().NowNs();
  harness.Submit(MakeRequest("short", 5, 4, 1));
  harness.Submit(MakeRequest("long", 5, 12, 2));
  for (int i = 0; i < 2; ++i) harness.Step();
  unrecorded = true;
  for (int i = 0; i < 4; ++i) harness.Step();
  unrecorded = false;
  for (int i = 0; i < 10; ++i) harness.Step();
  harness.engine().Stop();
  books.TakeAll();
  EXPECT_TRUE(books.row("short").unrecorded);
  EXPECT_FALSE(books.row("long").unrecorded);
  EXPECT_GT(books.row("long").unrecorded_ns, 0);
  EXPECT_EQ(books.periods[0].tenants[0].lost_ns,
            books.row("short").cost.machine_ns - books.row("short").unrecorded_ns);
  ExpectBooksAgree(books, start_ns, harness.clock().NowNs());
}

TEST(EngineBooksTest, ADeviceThatFailsLeavesWholeBooks) {
  TestBooks books;
  EngineHarness harness(WithBooks(books));
  const int64_t start_ns = harness.clock().NowNs();
  for (int32_t i = 0; i < 3; ++i) harness.Submit(MakeRequest(absl::StrCat("r", i), 4, 9, i));
  harness.Step();
  harness.executor().fail_with = absl::InternalError("illegal address");
  harness.Step();
  harness.engine().Stop();
  books.TakeAll();
  ASSERT_EQ(books.rows.size(), 3u);
  for (const RequestRow& row : books.rows) {
    EXPECT_TRUE(row.written_off);
    EXPECT_EQ(row.cost.cost_nanousd, 0);
  }
  ExpectBooksAgree(books, start_ns, harness.clock().NowNs());
}

// Everything at once: preemptions, cancels, deadlines, NaNs, rate changes, wall clocks that jump,
// times without a store, a slow reader of the records.
void RunRandomBooks(uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto chance = [&random](int percent) { return static_cast<int>(random() % 100) < percent; };
  TestBooks books(1 + random() % 6);
  std::atomic<bool> unrecorded = false;
  EngineOptions options = WithBooks(books);
  options.unrecorded = &unrecorded;
  options.blocks = 26 + static_cast<int32_t>(random() % 30);
  options.period_ns = 10'000'000;
  EngineHarness harness(options);
  const int64_t start_ns = harness.clock().NowNs();
  harness.executor().not_finite = [](const SamplingRow& row) {
    return row.key.seed % 11 == 0 && row.output_index == 3;
  };
  int32_t submitted = 0;
  for (int step = 0; step < 300; ++step) {
    if (submitted < 25 && chance(20)) {
      Request request = MakeRequest(absl::StrCat("r", submitted++), 1 + random() % 25,
                                    1 + random() % 25, random());
      request.tenant = absl::StrCat("tenant", random() % 3);
      request.sampling.choices = 1 + random() % 2;
      if (chance(10)) request.deadline_ns = harness.clock().NowNs() + random() % 30'000'000 + 1;
      harness.Submit(request);
      if (chance(10)) harness.stream(harness.requests() - 1).Cancel();
    }
    if (chance(3)) {
      harness.engine().SetRateCard({absl::StrCat("card", step), int64_t(random() % 1'000'000)});
    }
    if (chance(5)) harness.clock().JumpUtc(int64_t(random() % 4000) * kSecondNs - 2000 * kSecondNs);
    if (chance(3)) unrecorded = !unrecorded;
    if (!harness.engine().Step()) harness.clock().Advance(1 + random() % 2'000'000'000);
    harness.CheckInvariants();
    harness.ReadAll();
    while (chance(60) && books.records.Front() != nullptr) books.TakeOne();
  }
  std::thread rest([&books] {
    while (!books.records.closed() || books.records.Front() != nullptr) {
      books.records.Wait(1'000'000);
      books.TakeAll();
    }
  });
  harness.clock().Advance(1);
  harness.engine().Stop();
  rest.join();
  EXPECT_EQ(books.rows.size(), static_cast<size_t>(submitted)) << "each ends once";
  EXPECT_EQ(harness.engine().Snapshot().conservation_error_ns, 0);
  ExpectBooksAgree(books, start_ns, harness.clock().NowNs());
}

TEST(EngineBooksTest, RowsOpenChargesAndPeriodsAgreeWhateverHappens) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    RunRandomBooks(seed);
    if (::testing::Test::HasFailure()) break;
  }
}

TEST(EngineBooksTest, OnThreadsOfTheirOwnEveryEndArrives) {
  const SteadyClock clock;
  NullExecutor executor(kTestVocab);
  TestBooks books(4);
  EngineOptions options = SmallEngineOptions();
  options.records = &books.records;
  options.inbox_max = 512;
  options.period_ns = 1'000'000;
  std::vector<std::shared_ptr<TokenStream>> streams;
  {
    Engine engine(options, &executor, nullptr, &clock);
    const int64_t start_ns = engine.ledger().start_ns();
    ASSERT_TRUE(engine.WarmUp().ok());
    engine.Start();
    std::thread thread([&books] {
      while (!books.records.closed() || books.records.Front() != nullptr) {
        books.records.Wait(kSecondNs);
        books.TakeAll();
      }
    });
    for (int32_t i = 0; i < 300; ++i) {
      Request request = MakeRequest(absl::StrCat("r", i), 1 + i % 20, 1 + i % 30, i);
      request.received_ns = clock.NowNs();
      streams.push_back(request.stream);
      ASSERT_TRUE(engine.Submit(std::move(request)).ok());
      if (i % 10 == 0) engine.SetRateCard({absl::StrCat("card", i), 100 * i});
    }
    engine.Drain(clock.NowNs() + 60 * kSecondNs);
    engine.Stop();
    thread.join();
    EXPECT_EQ(books.rows.size(), 300u);
    ExpectBooksAgree(books, start_ns, engine.ledger().last_cut_ns());
  }
  for (const auto& stream : streams) {
    StreamDelta delta;
    EXPECT_TRUE(stream->Take(&delta));
    EXPECT_TRUE(delta.end.has_value());
  }
}

}  // namespace
}  // namespace tuppence
