// What a good Generate call gets: its messages, ids, usage and cost.
#include <set>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "model/utf8.h"
#include "tests/service/service_harness.h"

namespace tuppence {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::Pair;
using ::testing::SizeIs;

class GenerateTest : public ::testing::Test {
 protected:
  ServiceHarness service_;
};

TEST_F(GenerateTest, AnswersAChatInValidTextWithUsageAndCostLast) {
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  request.mutable_sampling()->set_max_tokens(200);
  const auto call = service_.Generate(request);
  ASSERT_EQ(call->Wait().code, kOk) << call->Wait().message;
  EXPECT_THAT(call->token_ids(), SizeIs(200));
  EXPECT_TRUE(IsValidUtf8(call->text()));
  EXPECT_EQ(call->finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(call->start().model(), "demo");
  EXPECT_EQ(call->start().seed(), 7);
  EXPECT_EQ(call->start().prompt_tokens(), call->usage().prompt_tokens());
  EXPECT_EQ(call->usage().completion_tokens(), 200);
  EXPECT_GT(call->usage().total_seconds(), 0);
  const v1::Cost& cost = call->cost();
  EXPECT_EQ(cost.machine_ns(), cost.shared_ns() + cost.own_ns());
  EXPECT_EQ(cost.machine_ns(), cost.prefill_ns() + cost.decode_ns());
  EXPECT_TRUE(cost.has_cost_nanousd());
  EXPECT_EQ(cost.rate_card_id(), "test-card");
  for (size_t i = 0; i + 1 < call->messages().size(); ++i) {
    EXPECT_FALSE(call->messages()[i].has_usage());
  }
  for (size_t i = 1; i < call->messages().size(); ++i) {
    EXPECT_FALSE(call->messages()[i].has_start());
  }
}

TEST_F(GenerateTest, ALimitOfCostEndsTheAnswer) {
  service_.executor.step_us = 2000;
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  request.mutable_sampling()->set_max_tokens(1000);
  request.set_max_cost_nanousd(10'000);
  const auto call = service_.Generate(request);
  ASSERT_EQ(call->Wait().code, kOk) << call->Wait().message;
  EXPECT_EQ(call->finish_reason(), v1::FINISH_REASON_COST_LIMIT);
  EXPECT_LT(call->usage().completion_tokens(), 1000);
  service_.ExpectUnharmed();
}

TEST_F(GenerateTest, EveryMessageHoldsWholeCharactersOnly) {
  service_.executor.step_us = 200;
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  request.mutable_sampling()->set_max_tokens(300);
  const auto call = service_.Generate(request);
  for (const v1::GenerateResponse& message : call->messages()) {
    for (const v1::Choice& choice : message.choices()) EXPECT_TRUE(IsValidUtf8(choice.text()));
  }
}

TEST_F(GenerateTest, TextAndTokenIdsGiveTheSameAnswerAsOneAnother) {
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  request.set_text("Where is my order?");
  const auto by_text = service_.Generate(request);
  v1::TokenizeRequest tokenize;
  tokenize.set_text("Where is my order?");
  v1::TokenizeResponse ids;
  ASSERT_EQ(service_.Call("Tokenize", tokenize, &ids).code, kOk);
  EXPECT_EQ(ids.context_tokens(), 2048);
  *request.mutable_token_ids()->mutable_ids() = ids.token_ids();
  const auto by_ids = service_.Generate(request);
  ASSERT_EQ(by_ids->Wait().code, kOk);
  EXPECT_EQ(by_text->token_ids(), by_ids->token_ids());
  EXPECT_EQ(by_text->text(), by_ids->text());
  EXPECT_EQ(by_ids->usage().prompt_tokens(), ids.token_ids_size());
}

TEST_F(GenerateTest, SeedIsDrawnReturnedAndRepeatsTheAnswer) {
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  request.mutable_sampling()->clear_seed();
  const auto first = service_.Generate(request);
  const auto second = service_.Generate(request);
  EXPECT_NE(first->start().seed(), second->start().seed());
  request.mutable_sampling()->set_seed(first->start().seed());
  EXPECT_EQ(service_.Generate(request)->token_ids(), first->token_ids());
  request.mutable_sampling()->set_seed(~uint64_t{0});  // C10: the largest is a seed like any other
  const auto largest = service_.Generate(request);
  EXPECT_EQ(largest->Wait().code, kOk);
  EXPECT_EQ(largest->start().seed(), ~uint64_t{0});
}

TEST_F(GenerateTest, FirstOfSeveralChoicesIsTheOnlyOneOfOne) {
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  const auto one = service_.Generate(request);
  request.mutable_sampling()->set_n(4);
  const auto four = service_.Generate(request);
  ASSERT_EQ(four->Wait().code, kOk) << four->Wait().message;
  EXPECT_EQ(four->token_ids(0), one->token_ids(0));
  for (int choice = 0; choice < 4; ++choice) {
    EXPECT_THAT(four->token_ids(choice), SizeIs(4));
    EXPECT_EQ(four->finish_reason(choice), v1::FINISH_REASON_LENGTH);
  }
  EXPECT_EQ(four->usage().completion_tokens(), 16);
}

TEST_F(GenerateTest, StopStringEndsTheTextBeforeItAndIncludedOnRequest) {
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  request.mutable_sampling()->set_max_tokens(60);
  const std::string whole = service_.Generate(request)->text();
  ASSERT_GT(whole.size(), 20u);
  size_t at = 10;  // some three bytes that are characters of their own
  while (at + 3 < whole.size() && !IsValidUtf8(whole.substr(at, 3))) ++at;
  const std::string stop = whole.substr(at, 3);
  request.mutable_sampling()->add_stop(stop);
  const auto stopped = service_.Generate(request);
  EXPECT_EQ(stopped->text(), whole.substr(0, whole.find(stop)));
  EXPECT_EQ(stopped->finish_reason(), v1::FINISH_REASON_STOP);
  request.mutable_sampling()->set_include_stop(true);
  EXPECT_EQ(service_.Generate(request)->text(), whole.substr(0, whole.find(stop) + 3));
}

TEST_F(GenerateTest, StopTokenEndsTheAnswer) {
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  const std::vector<int32_t> ids = service_.Generate(request)->token_ids();
  request.mutable_sampling()->add_stop_token_ids(ids[1]);
  const auto stopped = service_.Generate(request);
  EXPECT_EQ(stopped->finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_LE(stopped->token_ids().size(), 2u);
}

TEST_F(GenerateTest, LogprobsComeWithTheirTokensAndThosesOfThePrompt) {
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  request.mutable_output()->set_logprobs(true);
  request.mutable_output()->set_prompt_logprobs(true);
  const auto call = service_.Generate(request);
  ASSERT_EQ(call->Wait().code, kOk) << call->Wait().message;
  std::vector<int32_t> of_answer;
  int of_prompt = 0;
  for (const v1::GenerateResponse& message : call->messages()) {
    of_prompt += message.prompt_logprobs_size();
    for (const v1::Choice& choice : message.choices()) {
      for (const auto& position : choice.logprobs()) {
        of_answer.push_back(position.chosen().token_id());
        EXPECT_EQ(position.chosen().token_bytes(),
                  service_.model.tokenizer->TokenBytes(position.chosen().token_id()));
      }
    }
  }
  EXPECT_EQ(of_answer, call->token_ids());
  EXPECT_EQ(of_prompt, call->usage().prompt_tokens() - 1);
}

TEST_F(GenerateTest, TokenIdsAloneNeedNoText) {
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  request.mutable_output()->Clear();
  request.mutable_output()->set_no_text(true);
  const auto call = service_.Generate(request);
  EXPECT_EQ(call->text(), "");
  EXPECT_THAT(call->token_ids(), SizeIs(4));
  request.mutable_output()->Clear();
  const auto text_only = service_.Generate(request);
  EXPECT_THAT(text_only->token_ids(), IsEmpty());
  EXPECT_THAT(text_only->text(), Not(IsEmpty()));
}

TEST_F(GenerateTest, MaxTokensDefaultsToWhatIsLeftButAtMost1024) {
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  request.mutable_sampling()->clear_max_tokens();
  EXPECT_THAT(service_.Generate(request)->token_ids(), SizeIs(1024));
  for (int i = 0; i < 2000; ++i) request.mutable_token_ids()->add_ids(300);
  EXPECT_THAT(service_.Generate(request)->token_ids(), SizeIs(48));
}

TEST_F(GenerateTest, RequestIdIsInMetadataStartAndLog) {
  CallOptions options;
  options.metadata = {{"x-request-id", "caller-7"}};
  const auto call = service_.Generate(ServiceHarness::GoodRequest(), options);
  const std::string id = call->start().request_id();
  EXPECT_THAT(id, SizeIs(32));
  const CallEnd& end = call->Wait();
  EXPECT_THAT(end.initial, Contains(Pair("tuppence-request-id", id)));
  EXPECT_THAT(end.trailing, Contains(Pair("tuppence-request-id", id)));
  EXPECT_THAT(end.initial, Contains(Pair("x-request-id", "caller-7")));
  EXPECT_THAT(end.trailing, Contains(Pair("x-request-id", "caller-7")));
  service_.ExpectAtRest();
  EXPECT_THAT(service_.log(), HasSubstr("\"request_id\":\"" + id + "\""));
  EXPECT_THAT(service_.log(), HasSubstr("\"caller_request_id\":\"caller-7\""));
}

TEST_F(GenerateTest, LogLineHasNumbersAndNeverText) {
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  request.mutable_chat()->mutable_messages(0)->set_content("sentinel-93c1 where is it");
  const auto call = service_.Generate(request);
  service_.ExpectAtRest();
  EXPECT_THAT(service_.log(), HasSubstr("\"outcome\":\"OK\""));
  EXPECT_THAT(service_.log(), HasSubstr("\"completion_tokens\":4"));
  EXPECT_THAT(service_.log(), HasSubstr("\"cost_nanousd\":"));
  EXPECT_THAT(service_.log(), Not(HasSubstr("sentinel-93c1")));
  EXPECT_THAT(service_.log(), Not(HasSubstr(call->text())));
}

TEST_F(GenerateTest, RequestIdsAreUnique) {
  std::set<std::string> ids;
  for (int i = 0; i < 50; ++i) {
    ids.insert(service_.Generate(ServiceHarness::GoodRequest())->start().request_id());
  }
  EXPECT_THAT(ids, SizeIs(50));
}

TEST_F(GenerateTest, ServedModelMayBeNamed) {
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  request.set_model("demo");
  EXPECT_EQ(service_.Generate(request)->Wait().code, kOk);
}

}  // namespace
}  // namespace tuppence
