// The parts of `tuppence batch`: how a file is read, what a line asks and becomes, that the output
// is whole after whatever happened to it, and what is counted. The whole command, killed and gone
// on with, is in tests/end_to_end/batch_test.py.
#include <grpcpp/support/status.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "scheduler/refusal.h"
#include "service/answer_from_proto.h"
#include "service/batch_input.h"
#include "service/batch_line.h"
#include "service/batch_output.h"
#include "service/batch_runner.h"
#include "service/batch_totals.h"
#include "service/client.h"
#include "service/convert.h"
#include "service/rpc_status.h"
#include "tests/service/usage_files.h"

namespace tuppence {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;
using Json = nlohmann::json;

class BatchTest : public ::testing::Test {
 protected:
  void Write(const std::string& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
  }
  std::string Read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  std::string WhyNot(const std::string& text) {
    Write(input_, text);
    return std::string(CheckBatchInput(input_).status().message());
  }
  absl::StatusOr<std::unique_ptr<BatchOutput>> Open() {
    done_.clear();
    return BatchOutput::Open(output_, input_, [this](const Json& line) {
      done_.push_back(BatchRunner::KeyOfAnswer(line));
    });
  }

  const std::string folder_ = EmptyFolder();
  const std::string input_ = folder_ + "/in.jsonl";
  const std::string output_ = folder_ + "/out.jsonl";
  std::vector<std::string> done_;
};

TEST_F(BatchTest, LinesMayEndAnyWayAndBlankOnesAreNone) {
  Write(input_, "\xef\xbb\xbf{\"a\": 1}\r\n\n   \r\n{\"b\": 2}\n{\"c\": 3}");
  auto input = BatchInput::Open(input_);
  ASSERT_TRUE(input.ok());
  std::vector<std::string> lines;
  while (const auto line = input->Next()) lines.push_back(absl::StrCat(line->number, line->text));
  EXPECT_THAT(lines, ElementsAre("1{\"a\": 1}", "4{\"b\": 2}", "5{\"c\": 3}"));
  EXPECT_TRUE(input->status().ok());
  EXPECT_EQ(BatchInput::Open(folder_ + "/none").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(BatchTest, ALineTooLongIsPassedOverAndStandsAsOneThatCannotBeRead) {
  Write(input_, absl::StrCat(std::string(kBatchLineBytesMax, 'x'), "\n",
                             std::string(kBatchLineBytesMax + 1, 'x'), "\n{}"));
  auto input = BatchInput::Open(input_);
  ASSERT_TRUE(input.ok());
  EXPECT_FALSE(input->Next()->too_long);
  const auto second = input->Next();
  EXPECT_TRUE(second->too_long);
  EXPECT_THAT(second->text, IsEmpty());
  EXPECT_EQ(input->Next()->text, "{}");
  EXPECT_THAT(std::string(ReadBatchLine(*second).status().message()),
              HasSubstr("more than 4194304 bytes"));
}

TEST_F(BatchTest, AFileWhoseAnswersCouldNotBeFoundAgainIsRefusedNamingTheLines) {
  EXPECT_THAT(WhyNot(""), HasSubstr("has no lines"));
  EXPECT_THAT(WhyNot("\r\n\n"), HasSubstr("has no lines"));
  EXPECT_THAT(WhyNot("{}"), HasSubstr("line 1 has no custom_id"));
  EXPECT_THAT(WhyNot(R"({"custom_id": 5})"), HasSubstr("line 1 has no custom_id"));
  EXPECT_THAT(WhyNot(R"({"custom_id": ""})"), HasSubstr("line 1 has a custom_id of 0 bytes"));
  EXPECT_THAT(WhyNot(absl::StrCat("{\"custom_id\": \"", std::string(10240, 'x'), "\"}")),
              HasSubstr("10240 bytes; allowed is 1 to 512"));
  std::string many;
  for (int i = 0; i < 8; ++i) many += "{\"custom_id\": \"same\"}\n";
  EXPECT_THAT(WhyNot(many),
              testing::AllOf(HasSubstr("line 2 has the custom_id of line 1, \"same\""),
                             HasSubstr("and 2 more")));
  EXPECT_EQ(WhyNot("{\"custom_id\": \"a\"}\nnot JSON\n{\"custom_id\": \"b\"}"), "");
}

TEST_F(BatchTest, ALineAsksWhatItsBodySaysInTheBatchClass) {
  const auto ask = ReadBatchLine(
      {.number = 1,
       .text = R"({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "expected":
                "yes", "body": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9,
                "temperature": 0.5, "n": 2, "stop": ["x"]}})"});
  ASSERT_TRUE(ask.ok()) << ask.status();
  EXPECT_EQ(ask->custom_id, "a");
  EXPECT_EQ(ask->expected, "yes");
  EXPECT_FALSE(ask->shows_logprobs);
  const v1::GenerateRequest request = ToProto(ask->ask);
  EXPECT_EQ(request.priority_class(), v1::PRIORITY_CLASS_BATCH);
  EXPECT_EQ(request.chat().messages(0).content(), "Hi");
  EXPECT_EQ(request.sampling().max_tokens(), 9);
  EXPECT_EQ(request.sampling().temperature(), 0.5f);
  EXPECT_EQ(request.sampling().n(), 2);
  EXPECT_EQ(request.sampling().stop(0), "x");
  EXPECT_TRUE(request.output().logprobs()) << "for the mean";
}

TEST_F(BatchTest, EveryFieldThatABodyMayHaveReachesTheService) {
  const auto line = ReadBatchLine(
      {.number = 1,
       .text = R"({"custom_id": "a", "url": "/v1/completions", "body": {"prompt": [1, 450, 29871],
                "model": "m", "temperature": 0.5, "top_p": 0.25, "top_k": 7, "min_p": 0.125,
                "repetition_penalty": 1.5, "presence_penalty": -1, "frequency_penalty": 0.75,
                "logit_bias": {"12": -3.5}, "seed": -1, "n": 2, "max_tokens": 9, "min_tokens": 3,
                "ignore_eos": true, "stop": "x", "stop_token_ids": [5], "logprobs": 4,
                "include_stop_str_in_output": true, "max_cost_nanousd": 77}})"});
  ASSERT_TRUE(line.ok()) << line.status();
  v1::GenerateRequest request = ToProto(line->ask);
  const GenerationAsk ask = AskFromProto(&request);
  EXPECT_THAT(ask.prompt.token_ids, ElementsAre(1, 450, 29871));
  EXPECT_EQ(ask.model, "m");
  EXPECT_EQ(ask.priority_class, PriorityClass::kBatch);
  EXPECT_EQ(ask.max_cost_nanousd, 77);
  EXPECT_TRUE(ask.has_max_tokens);
  const SamplingParams& sampling = ask.sampling;
  EXPECT_EQ(sampling.temperature, 0.5f);
  EXPECT_EQ(sampling.top_p, 0.25f);
  EXPECT_EQ(sampling.top_k, 7);
  EXPECT_EQ(sampling.min_p, 0.125f);
  EXPECT_EQ(sampling.repetition_penalty, 1.5f);
  EXPECT_EQ(sampling.presence_penalty, -1);
  EXPECT_EQ(sampling.frequency_penalty, 0.75f);
  ASSERT_EQ(sampling.logit_bias.size(), 1u);
  EXPECT_EQ(sampling.logit_bias[0].token_id, 12);
  EXPECT_EQ(sampling.logit_bias[0].bias, -3.5f);
  EXPECT_EQ(sampling.seed, ~uint64_t{0});
  EXPECT_EQ(sampling.choices, 2);
  EXPECT_EQ(sampling.max_tokens, 9);
  EXPECT_EQ(sampling.min_tokens, 3);
  EXPECT_TRUE(sampling.ignore_eos);
  EXPECT_THAT(sampling.stop_strings, ElementsAre("x"));
  EXPECT_THAT(sampling.stop_ids, ElementsAre(5));
  EXPECT_TRUE(sampling.include_stop_string);
  EXPECT_EQ(sampling.top_logprobs, 4);
}

TEST_F(BatchTest, ALineThatCannotBeAskedSaysWhy) {
  const std::pair<const char*, const char*> wrong[] = {
      {"{", "the line:"},
      {"[]", "no JSON object"},
      {R"({"method": "GET", "url": "/v1/completions", "body": {}})", "POST is what there is"},
      {R"({"url": "/v1/embeddings", "body": {}})", "url is \"/v1/embeddings\"; allowed is"},
      {R"({"url": "/v1/completions"})", "no body"},
      {R"({"url": "/v1/completions", "body": {"prompt": "x", "stream": true}})", "stream is true"},
      {R"({"url": "/v1/completions", "body": {"prompt": "x", "n": "2"}})", "n is"},
  };
  for (const auto& [text, words] : wrong) {
    const absl::Status status = ReadBatchLine({.number = 1, .text = text}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(words));
    const Json line = Json::parse(BatchErrorLine("batch_req_1_1", "a", status));
    EXPECT_EQ(line["custom_id"], "a");
    EXPECT_EQ(line["response"]["status_code"], 400);
    EXPECT_EQ(line["error"]["message"], line["response"]["body"]["error"]["message"]);
  }
}

TEST_F(BatchTest, ALinesOwnFieldsAreKnownToAStrictService) {
  const std::string line = R"({"custom_id": "a", "method": "POST", "url": "/v1/completions",
      "expected": "x", "reference_answer": "y", "body": {"prompt": "p"}, )";
  BatchReading reading;
  for (const bool strict : {false, true}) {
    reading.limits.strict = strict;
    const BatchLine known = {.number = 1,
                             .text = absl::StrCat(line.substr(0, line.rfind(',')), "}")};
    EXPECT_TRUE(ReadBatchLine(known, reading).ok());
    const absl::Status status =
        ReadBatchLine({.number = 1, .text = absl::StrCat(line, "\"Expected\": \"x\"}")}, reading)
            .status();
    EXPECT_EQ(status.ok(), !strict);
    if (strict) {
      EXPECT_THAT(std::string(status.message()), HasSubstr("Expected is not known"));
    }
  }
}

TEST_F(BatchTest, AnAnswerIsPutTogetherFromItsMessages) {
  const auto ask = ReadBatchLine(
      {.number = 1, .text = R"({"custom_id": "a", "url": "/v1/completions", "expected": "abc",
                "reference_answer": "x", "body": {"prompt": "p", "n": 2, "logprobs": 1}})"});
  ASSERT_TRUE(ask.ok()) << ask.status();
  BatchAnswer answer(*ask);
  const auto choice = [](v1::GenerateResponse* to, int32_t index, const std::string& text,
                         int32_t token_id, float logprob) {
    v1::Choice* choice = to->add_choices();
    choice->set_index(index);
    choice->set_text(text);
    v1::TokenLogprob* chosen = choice->add_logprobs()->mutable_chosen();
    chosen->set_token_id(token_id);
    chosen->set_logprob(logprob);
    chosen->set_token_bytes(text);
    return choice;
  };
  v1::GenerateResponse first;
  absl::flat_hash_map<int32_t, std::string> bytes;
  answer.Begin({.request_id = "id", .model = "demo", .token_bytes = [&bytes](int32_t id) {
                  return std::string_view(bytes[id]);
                }});
  choice(&first, 0, " ab", 1, -1);
  choice(&first, 1, "z", 2, -3)->set_finish_reason(v1::FINISH_REASON_LENGTH);
  answer.Add(DeltaFromProto(first, &bytes));
  EXPECT_FALSE(answer.complete());
  v1::GenerateResponse second;
  choice(&second, 0, "c\n", 3, -2)->set_finish_reason(v1::FINISH_REASON_STOP);
  answer.Add(DeltaFromProto(second, &bytes));
  EXPECT_TRUE(answer.complete());
  EXPECT_FALSE(answer.has_end()) << "what it cost comes last";
  v1::GenerateResponse last;
  last.mutable_usage()->set_completion_tokens(3);
  last.mutable_usage()->set_energy_joules(1.5);
  last.mutable_cost()->set_cost_nanousd(42);
  answer.Add(DeltaFromProto(last, &bytes));
  const Json line = Json::parse(answer.Line("batch_req_1_1", std::nullopt));
  EXPECT_EQ(line["mean_logprob"], -2);
  EXPECT_EQ(line["exact_match"], true) << "but for the white space around it";
  EXPECT_EQ(line["answer"], " abc\n");
  EXPECT_EQ(line["reference_answer"], "x");
  EXPECT_EQ(line["response"]["request_id"], "id");
  const Json& body = line["response"]["body"];
  EXPECT_EQ(body["model"], "demo");
  EXPECT_EQ(body["choices"][0]["text"], " abc\n");
  EXPECT_EQ(body["choices"][1]["finish_reason"], "length");
  EXPECT_EQ(body["choices"][0]["logprobs"]["tokens"], Json::array({" ab", "c\n"}));
  EXPECT_EQ(body["usage"]["cost_nanousd"], 42);
  EXPECT_EQ(body["usage"]["energy_joules"], 1.5);
  answer.SetEnd({}, {});
  EXPECT_FALSE(Json::parse(answer.Line("x_1", std::nullopt))["response"]["body"]["usage"].contains(
      "energy_joules"))
      << "where the device tells none";
}

TEST_F(BatchTest, WhatWasWrittenIsFoundAgainAndATornLineIsTakenOff) {
  Write(input_, "{}");
  std::string job;
  {
    const auto output = Open();
    ASSERT_TRUE(output.ok()) << output.status();
    job = (*output)->job_id();
    EXPECT_TRUE((*output)->Append(R"({"id": "batch_req_x_1", "custom_id": "a"})").ok());
    EXPECT_TRUE((*output)->Append(R"({"id": "batch_req_x_2", "custom_id": null})").ok());
    EXPECT_EQ(Open().status().code(), absl::StatusCode::kFailedPrecondition) << "two at once";
  }
  const std::string whole = Read(output_);
  for (const char* torn : {"", "{", "{\"id\": \"batch_req_x_3\", \"custom_id\": \"c\"}"}) {
    Write(output_, whole + torn);
    const auto output = Open();
    ASSERT_TRUE(output.ok()) << output.status();
    EXPECT_EQ((*output)->job_id(), job);
    EXPECT_THAT(done_, ElementsAre("a", BatchRunner::KeyOf("", 2)));
    EXPECT_EQ(Read(output_), whole);
  }
  Write(output_, "{\"id\": \"1\"}\nnot an answer\n{\"id\": \"2\"}\n");
  EXPECT_THAT(std::string(Open().status().message()), HasSubstr("line 2 is no answer"));
}

TEST_F(BatchTest, TheOutputIsNoFileOfSomebodyElse) {
  Write(input_, "{}");
  std::filesystem::create_symlink(input_, folder_ + "/link");
  for (const std::string& path :
       {input_, folder_ + "/link",
        folder_ + "/../" + std::filesystem::path(folder_).filename().string() + "/in.jsonl"}) {
    const absl::Status status = BatchOutput::Open(path, input_, [](const Json&) {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << path;
  }
  EXPECT_EQ(Read(input_), "{}");
  EXPECT_FALSE(BatchOutput::Open(folder_, input_, [](const Json&) {}).ok());
  EXPECT_FALSE(BatchOutput::Open(folder_ + "/no/such", input_, [](const Json&) {}).ok());
  Write(output_, "mine\n");
  EXPECT_THAT(std::string(Open().status().message()), HasSubstr("no batch to go on with"));
  EXPECT_EQ(Read(output_), "mine\n");
}

TEST_F(BatchTest, TotalsAreTheJobsAndSayWhatTheModelGotRight) {
  BatchTotals totals;
  const auto add = [&](int64_t cost, std::optional<bool> match) {
    Json line = {
        {"response",
         {{"status_code", 200},
          {"body",
           {{"usage",
             {{"prompt_tokens", 1000},
              {"completion_tokens", 20},
              {"prompt_tokens_details", {{"cached_tokens", 30}}},
              {"cost_nanousd", cost},
              {"cost_details", {{"reference_nanousd", 500}, {"reference_id", "api"}}}}}}}}}};
    if (match.has_value()) line["exact_match"] = *match;
    totals.Add(line);
  };
  add(100, true);
  add(200, false);
  add(300, std::nullopt);
  totals.Add({{"response", {{"status_code", 429}}}});
  totals.Add({{"response",
               {{"status_code", 504},
                {"body",
                 {{"usage",
                   {{"prompt_tokens", 7},
                    {"completion_tokens", 1},
                    {"cost_nanousd", 50},
                    {"cost_details", {{"reference_nanousd", 500}, {"reference_id", "api"}}}}}}}}}});
  const std::string text = FormatTotals(totals.sums(), 5);
  EXPECT_THAT(text, StartsWith("answered 3, refused 2 of 5 lines\n"
                               "as expected, exactly: 1 of 2 (50.0 %)\n"
                               "tokens: 3,007 prompt (90 cached), 61 completion\n"
                               "cost: 0.000000650 USD\n"
                               "at api: 0.000001500 USD for 3 of them"));
  const BatchProgress half = {
      .sums = totals.sums(), .lines = 8, .lines_before = 2, .tokens_before = 20, .seconds = 4};
  EXPECT_EQ(FormatProgress(half, 200),
            "[===============         ] 5/8, 2 refused, 10 tokens/s, 0.00000065 USD, 4 s left");
  EXPECT_EQ(FormatProgress(half, 10).size(), 10u);
  BatchSums free;
  free.answered = free.priced = 1;
  EXPECT_THAT(FormatProgress({.sums = free, .lines = 2, .seconds = 1}, 200), HasSubstr(" USD"))
      << "which is known, and nothing";
  totals.Add({{"response", nullptr}, {"error", {{"code", "batch_expired"}}}});
  EXPECT_EQ(totals.sums().refused, 3);
}

TEST_F(BatchTest, AnAnswerThatBreaksOffSaysWhatItCost) {
  RequestEnd end;
  end.usage.prompt_tokens = 7;
  end.usage.completion_tokens = 3;
  end.cost.has_rate = true;
  end.cost.cost_nanousd = 50;
  const absl::Status late = absl::DeadlineExceededError("late");
  const absl::Status told = FromGrpc(ToGrpcStatus(late, "r1", &end));
  const std::optional<RequestEnd> booked = BookedOf(told);
  ASSERT_TRUE(booked.has_value());
  const Json body = Json::parse(BatchErrorLine("id", "mine", told, &*booked))["response"]["body"];
  EXPECT_EQ(body["error"]["message"], "late");
  EXPECT_EQ(body["usage"]["prompt_tokens"], 7);
  EXPECT_EQ(body["usage"]["completion_tokens"], 3);
  EXPECT_EQ(body["usage"]["cost_nanousd"], 50);
  EXPECT_FALSE(BookedOf(FromGrpc(ToGrpcStatus(late, "r1", nullptr))).has_value());
}

// Answers in the end; before that what `first` says, a status for each call.
class FakeAsker final : public BatchAsker {
 public:
  FakeAsker(std::vector<absl::Status> first, std::vector<std::string>* names)
      : first_(std::move(first)), names_(*names) {}

  absl::Status Ask(const BatchAsk&, const std::string& name, BatchAnswer* answer) override {
    names_.push_back(name);
    if (names_.size() <= first_.size()) return first_[names_.size() - 1];
    answer->Begin({.request_id = "id", .model = "demo"});
    StreamDelta delta;
    delta.choices.resize(1);
    delta.choices[0].finish_reason = FinishReason::kStop;
    delta.end.emplace();
    answer->Add(std::move(delta));
    return absl::OkStatus();
  }
  absl::Status FindBooked(const std::string&, BookedAnswer*) override {
    return absl::NotFoundError("no books");
  }

 private:
  const std::vector<absl::Status> first_;
  std::vector<std::string>& names_;
};

TEST_F(BatchTest, ALineAskedBeforeAKillIsAskedAgainUnderItsNameUntilItIsAnswered) {
  Write(input_, R"({"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "p"}})");
  Refusal in_progress = Because(reason::kKeyInProgress);
  in_progress.retry_after_ms = 1;
  const std::vector<absl::Status> first = {
      RefusalStatus(absl::StatusCode::kAborted, "still being answered", in_progress),
      RefusalStatus(absl::StatusCode::kAlreadyExists, "gone", Because(reason::kKeyAnswerGone))};
  std::vector<std::string> names, lines;
  BatchTotals totals;
  BatchRunOptions options;
  options.job_id = "j";
  options.concurrency = 1;
  BatchRunner runner(
      options,
      [&]() -> absl::StatusOr<std::unique_ptr<BatchAsker>> {
        return std::make_unique<FakeAsker>(first, &names);
      },
      [&](const std::string& line, bool) {
        lines.push_back(line);
        return absl::OkStatus();
      },
      &totals);
  auto input = BatchInput::Open(input_);
  ASSERT_TRUE(input.ok());
  EXPECT_TRUE(runner.Run(&*input, {}).ok());
  EXPECT_THAT(names, ElementsAre("batch-j-1", "batch-j-1", "batch-j-1-2"))
      << "as new only once the first answer cannot be had again";
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(Json::parse(lines[0])["response"]["status_code"], 200);
}

}  // namespace
}  // namespace tuppence
