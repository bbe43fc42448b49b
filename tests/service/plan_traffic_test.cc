// Where a plan's traffic comes from: drawn, from a trace, from what an invoice shows; and what is
// said of a trace or an invoice that cannot be read.
#include <cmath>

#include "bench/load.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "service/planner/invoice_traffic.h"
#include "service/planner/trace_file.h"
#include "service/trace_writer.h"
#include "tests/service/usage_files.h"
#include "tests/support/fake_clock.h"

namespace tuppence {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kMs = 1'000'000;

TEST(PlanTrafficTest, ATraceIsReadInBothForms) {
  const std::string csv =
      "Arrival,prompt_tokens,completion_tokens,tenant,priority_class\n"
      "2026-11-24T10:00:01.5+00:00,20,2,shop,batch\r\n"
      "\n"
      "2026-11-24T10:00:00Z,10,1,\"a, \"\"b\"\"\",interactive\n"
      "2026-11-24T11:00:02Z,30,3,shop,\n";
  const std::string lines =
      "{\"arrival\": 101.5, \"prompt_tokens\": 20, \"completion_tokens\": 2, \"tenant\": \"shop\", "
      "\"priority_class\": \"batch\"}\n"
      "{\"arrival\": \"100\", \"prompt_tokens\": 10, \"completion_tokens\": 1, \"tenant\": \"b\", "
      "\"priority_class\": \"interactive\"}\n"
      "{\"arrival\": 3702, \"prompt_tokens\": 30, \"completion_tokens\": 3, \"tenant\": \"shop\"}";
  for (const std::string& text : {csv, lines}) {
    const auto traffic = ParseTrace(text);
    ASSERT_TRUE(traffic.ok()) << traffic.status();
    ASSERT_EQ(traffic->arrivals.size(), 3u);
    EXPECT_EQ(traffic->arrivals[0].at_ns, 0);
    EXPECT_EQ(traffic->arrivals[0].prompt_tokens, 10);
    EXPECT_EQ(traffic->arrivals[0].priority_class, PriorityClass::kInteractive);
    EXPECT_EQ(traffic->arrivals[1].at_ns, 1500 * kMs);
    EXPECT_EQ(traffic->arrivals[1].completion_tokens, 2);
    EXPECT_EQ(traffic->arrivals[1].priority_class, PriorityClass::kBatch);
    EXPECT_EQ(traffic->arrivals[2].priority_class, PriorityClass::kStandard);
    EXPECT_EQ(traffic->arrivals[1].tenant, traffic->arrivals[2].tenant);
    EXPECT_NE(traffic->arrivals[0].tenant, traffic->arrivals[1].tenant);
    EXPECT_EQ(traffic->prompt_tokens, 60);
    EXPECT_EQ(traffic->completion_tokens, 6);
    EXPECT_EQ(traffic->duration_ns, traffic->arrivals[2].at_ns);
  }
}

TEST(PlanTrafficTest, ATraceThatCannotBeReadNamesTheLineAndTheWayOut) {
  const std::string heading = "arrival,prompt_tokens,completion_tokens\n";
  const std::pair<std::string, const char*> cases[] = {
      {"", "no column \"arrival\""},
      {"arrival,prompt_tokens,output_tokens\n", "no column \"completion_tokens\""},
      {"arrival,prompt_tokens,completion_tokens,text\n", "a column \"text\", which is not known"},
      {heading, "has no request"},
      {heading + "1,2\n", "line 2: has 2 cells"},
      {heading + "1,5,5\nyesterday,5,5\n", "line 3: arrival is \"yesterday\""},
      {heading + "1,5,5\n2026-11-24T10:00:00Z,5,5\n", "line 3: arrival is a time here and seconds"},
      {heading + "2026-11-24T10:00:00,5,5\n", "a time with offset"},
      {heading + "1,0,5\n", "line 2: prompt_tokens is \"0\""},
      {heading + "1,5,-3\n", "line 2: completion_tokens is \"-3\""},
      {heading + "1e300,5,5\n", "line 2: arrival"},
      {heading + "nan,5,5\n", "line 2: arrival"},
      {"{\"arrival\": 1, \"prompt_tokens\": 5}\n", "line 1: completion_tokens is \"\""},
      {"{\"arrival\": 1\n", "line 1: not valid JSON"},
      {"{\"arrival\": 1, \"prompt\": \"hello\"}\n", "\"prompt\" is not known here"},
      {"{\"arrival\": 1, \"prompt_tokens\": 5, \"completion_tokens\": 5, \"priority_class\": "
       "\"vip\"}\n",
       "there are interactive, standard and batch"},
  };
  for (const auto& [text, message] : cases) {
    const auto traffic = ParseTrace(text);
    EXPECT_EQ(traffic.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(traffic.status().message()), HasSubstr(message)) << text;
  }
  EXPECT_EQ(ReadTrace("/nowhere/trace.csv").status().code(), absl::StatusCode::kNotFound);
}

TEST(PlanTrafficTest, ALoadIsDrawnAsServeBenchSendsIt) {
  const LoadShape shape = {.rate = 20, .prompt = {100, 500}, .completion = {20, 100}, .seed = 7};
  const auto traffic = DrawTraffic(shape, /*seconds=*/60);
  ASSERT_TRUE(traffic.ok()) << traffic.status();
  TrafficOptions options;
  options.rate = shape.rate;
  options.prompt = shape.prompt;
  options.output = shape.completion;
  options.seed = shape.seed;
  RequestMaker maker(options, /*vocab=*/32064);
  double at = 0;
  for (const Arrival& arrival : traffic->arrivals) {
    at += maker.NextGapSeconds();
    const v1::GenerateRequest request = maker.Next();
    EXPECT_EQ(arrival.at_ns, static_cast<int64_t>(at * 1e9));
    EXPECT_EQ(arrival.prompt_tokens, request.token_ids().ids_size());
    EXPECT_EQ(arrival.completion_tokens, request.sampling().max_tokens());
  }
  EXPECT_NEAR(static_cast<double>(traffic->arrivals.size()), 1200, 5 * std::sqrt(1200.0));
  EXPECT_EQ(traffic->duration_ns, 60'000 * kMs);
  EXPECT_FALSE(DrawTraffic({.rate = 1e-6}, 1).ok());
  EXPECT_FALSE(DrawTraffic({.rate = 1e6}, 1e6).ok());
}

TEST(PlanTrafficTest, AnInvoicesBusiestDayIsPlannedWith) {
  const auto invoice = ParseApiInvoice(
      "day,requests,input_tokens,output_tokens,amount\n"
      "2026-11-01,1000,300000,60000,0.081\n"
      "2026-11-02,2000,500000,100000,0.135\n"
      "2026-11-02,1000,400000,80000,0.108\n"
      "2026-11-05,10,3000,600,0.00081\n");
  ASSERT_TRUE(invoice.ok()) << invoice.status();
  EXPECT_EQ(invoice->days, 5);
  EXPECT_EQ(invoice->total.requests, 4010);
  EXPECT_EQ(invoice->busiest_day, "2026-11-02");
  EXPECT_EQ(invoice->busiest.requests, 3000);
  EXPECT_EQ(invoice->amount_nanousd, 324'810'000);

  const auto shape = ParseDayShape("day");
  ASSERT_TRUE(shape.ok());
  const auto traffic = BusiestDayTraffic(*invoice, *shape, /*tokens_ratio=*/1.2, /*seed=*/3);
  ASSERT_TRUE(traffic.ok()) << traffic.status();
  EXPECT_EQ(traffic->arrivals.size(), 3000u);
  EXPECT_EQ(traffic->duration_ns, 24 * kHourNs);
  // Uniform between half and one and a half times the mean of 360: deviation of the mean of 3,000
  // is 360 / sqrt(12) / sqrt(3000), about 1.9.
  EXPECT_NEAR(traffic->prompt_tokens / 3000.0, 1.2 * 300, 10);
  EXPECT_NEAR(traffic->completion_tokens / 3000.0, 1.2 * 60, 2);
  int64_t before_ns = 0;
  int64_t at_ten = 0;
  for (const Arrival& arrival : traffic->arrivals) {
    EXPECT_GE(arrival.at_ns, before_ns);
    before_ns = arrival.at_ns;
    at_ten += arrival.at_ns / kHourNs == 10;
  }
  EXPECT_EQ(at_ten, 217);  // 8 of 111 parts, and one that was left over
}

TEST(PlanTrafficTest, AnInvoiceThatCannotBeReadNamesTheLine) {
  const std::string heading = "day,requests,input_tokens,output_tokens,amount\n";
  const std::pair<std::string, const char*> cases[] = {
      {"day,requests,input_tokens\n", "no column \"output_tokens\""},
      {heading, "has no day with requests"},
      {heading + "November,1,1,1,1\n", "line 2: day is \"November\""},
      {heading + "2026-11-01,\"1,000\",1,1,1\n", "without separators"},
      {heading + "2026-11-01,10,5,20,1\n", "each request has at least one"},
      {heading + "2026-11-01,1,1,1,one\n", "line 2: amount"},
      {heading + "2026-11-01,1,1,1,-1\n", "amount is negative"},
      {heading + "2026-11-01,1,1,1,1\n2026-11-02,1,1,1,\n", "line 3: amount is in some lines"},
  };
  for (const auto& [text, message] : cases) {
    const auto invoice = ParseApiInvoice(text);
    EXPECT_EQ(invoice.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(invoice.status().message()), HasSubstr(message)) << text;
  }
  EXPECT_FALSE(MonthInvoice({.requests = 10, .input_tokens = 5, .output_tokens = 10}, {}).ok());
  for (const char* shape : {"", "night", "1,2,3", "0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0",
                            "-1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1"}) {
    EXPECT_FALSE(ParseDayShape(shape).ok()) << shape;
  }
}

class RecordCounter final : public RecordObserver {
 public:
  void Observe(const StepRecord&) override { ++records; }
  void ObserveCommit(int64_t, int64_t) override {}
  void ObserveClosing(int64_t) override {}
  int records = 0;
};

TEST(TraceWriterTest, WhatIsWrittenIsReadAgainAndGoesOn) {
  const std::string path = EmptyFolder() + "/trace.csv";
  StepRecord record;
  EndedRequest& ended = record.ended.emplace_back();
  ended.row.tenant = "a, \"b\"";
  ended.row.priority_class = PriorityClass::kInteractive;
  ended.row.received_utc_ns = int64_t{1'790'000'000} * 1000 * kMs + 250 * kMs;
  ended.row.usage.prompt_tokens = 312;
  ended.row.usage.completion_tokens = 57;
  record.ended.emplace_back().row.tenant = "cancelled before its first token";
  RecordCounter next;
  for (int run = 0; run < 2; ++run) {
    auto writer = TraceWriter::Open(path, &next);
    ASSERT_TRUE(writer.ok()) << writer.status();
    (*writer)->Observe(record);
  }
  EXPECT_EQ(next.records, 2);
  const auto traffic = ReadTrace(path);
  ASSERT_TRUE(traffic.ok()) << traffic.status();
  ASSERT_EQ(traffic->arrivals.size(), 2u);
  EXPECT_EQ(traffic->arrivals[0].prompt_tokens, 312);
  EXPECT_EQ(traffic->arrivals[0].completion_tokens, 57);
  EXPECT_EQ(traffic->arrivals[0].priority_class, PriorityClass::kInteractive);
  EXPECT_THAT(std::string(TraceWriter::Open("/nowhere/t", &next).status().message()),
              HasSubstr("--write-trace /nowhere/t: cannot be written"));
}

}  // namespace
}  // namespace tuppence
