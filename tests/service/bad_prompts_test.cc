// Bad and strange prompts, row by row of our list (section D), and what a checkpoint without a
// tokenizer or template refuses by name.
#include <chrono>
#include <functional>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "model/utf8.h"
#include "tests/service/service_harness.h"

namespace tuppence {
namespace {

using ::testing::Contains;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

class BadPromptsTest : public ::testing::Test {
 protected:
  v1::GenerateRequest WithContent(const std::string& content) {
    v1::GenerateRequest request = ServiceHarness::GoodRequest();
    request.mutable_chat()->mutable_messages(0)->set_content(content);
    return request;
  }
  v1::GenerateRequest WithText(const std::string& text) {
    v1::GenerateRequest request = ServiceHarness::GoodRequest();
    request.set_text(text);
    return request;
  }
  v1::GenerateRequest WithIds(const std::vector<int32_t>& ids) {
    v1::GenerateRequest request = ServiceHarness::GoodRequest();
    request.mutable_token_ids()->mutable_ids()->Add(ids.begin(), ids.end());
    return request;
  }
  void ExpectRefused(const v1::GenerateRequest& request, const char* field, const char* words) {
    const auto call = service_.Generate(request);
    const CallEnd& end = call->Wait();
    EXPECT_EQ(end.code, kInvalidArgument) << end.message;
    EXPECT_THAT(end.violations, Contains(Field(&FieldViolation::field, field)));
    EXPECT_THAT(end.message, HasSubstr(words));
    service_.ExpectUnharmed();
  }
  std::vector<int32_t> Tokenize(const std::string& text) {
    v1::TokenizeRequest request;
    v1::TokenizeResponse response;
    request.set_text(text);
    EXPECT_EQ(service_.Call("Tokenize", request, &response).code, kOk);
    return {response.token_ids().begin(), response.token_ids().end()};
  }

  ServiceHarness service_;
};

TEST_F(BadPromptsTest, D1NothingToAnswer) {
  for (const char* blank :
       {"", " ", " \t\r\n ", "\xEF\xBB\xBF", "\xEF\xBB\xBF \xC2\xA0", "\xE3\x80\x80"}) {
    ExpectRefused(WithContent(blank), "chat.messages[0].content", "is needed");
    ExpectRefused(WithText(blank), "text", "is needed");
  }
  // An assistant's turn may have been empty.
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  v1::ChatMessage* answer = request.mutable_chat()->add_messages();
  answer->set_role(v1::ROLE_ASSISTANT);
  v1::ChatMessage* again = request.mutable_chat()->add_messages();
  again->set_role(v1::ROLE_USER);
  again->set_content("And now?");
  EXPECT_EQ(service_.Generate(request)->Wait().code, kOk);
}

TEST_F(BadPromptsTest, D2ContextIsFilledExactlyOrRefused) {
  v1::GenerateRequest request = WithIds(std::vector<int32_t>(2000, 300));
  request.mutable_sampling()->set_max_tokens(48);
  const auto exact = service_.Generate(request);
  EXPECT_EQ(exact->Wait().code, kOk) << exact->Wait().message;
  EXPECT_THAT(exact->token_ids(), SizeIs(48));
  for (const int32_t too_many : {49, 480, 20480}) {
    request.mutable_sampling()->set_max_tokens(too_many);
    ExpectRefused(request, "sampling.max_tokens", "the prompt has 2000 tokens and max_tokens is");
  }
  ExpectRefused(WithIds(std::vector<int32_t>(2048, 300)), "sampling.max_tokens", "2048 tokens");
  v1::GenerateRequest no_limit = WithIds(std::vector<int32_t>(5000, 300));
  no_limit.mutable_sampling()->clear_max_tokens();
  ExpectRefused(no_limit, "sampling.max_tokens", "the prompt has 5000 tokens");
}

TEST_F(BadPromptsTest, D3LongTextsAreRefusedByTheirBytes) {
  HarnessOptions options;
  options.limits.prompt_bytes_max = 65536;
  ServiceHarness service(options);
  for (const std::string& unit :
       {std::string("a"), std::string(" "), std::string("\n"), std::string("\xE4\xB8\xAD"),
        std::string("e\xCC\x81"), std::string("\xF0\x9F\x98\x80")}) {
    std::string text;
    while (text.size() < (1 << 20)) text += unit;
    const auto begin = std::chrono::steady_clock::now();
    const auto call = service.Generate(WithContent(text));
    EXPECT_EQ(call->Wait().code, kInvalidArgument);
    EXPECT_THAT(call->Wait().message, HasSubstr("at most 65536 are read"));
    EXPECT_EQ(service.Generate(WithText(text))->Wait().code, kInvalidArgument);
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(2));
  }
  service.ExpectUnharmed();
}

TEST_F(BadPromptsTest, D3TextsUpToTheLimitAreTokenisedInTime) {
  for (const std::string& unit : {std::string("A"), std::string(" x"), std::string("\n"),
                                  std::string("\xE4\xB8\xAD"), std::string("e\xCC\x81")}) {
    std::string text = "x";
    while (text.size() < (1 << 20) - 8) text += unit;
    const auto begin = std::chrono::steady_clock::now();
    const auto call = service_.Generate(WithText(text));
    // Far over the context, which is seen only once it is tokenised.
    EXPECT_EQ(call->Wait().code, kInvalidArgument);
    EXPECT_EQ(call->Wait().reason, "CONTEXT_EXCEEDED") << call->Wait().message;
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(3));
  }
  service_.ExpectUnharmed();
}

TEST_F(BadPromptsTest, D4SpecialTokensWrittenByUsersAreOrdinaryText) {
  std::vector<int32_t> special;
  for (const char* text : {"<|system|>", "<|end|>", "<|assistant|>", "<|endoftext|>", "<|user|>"}) {
    const auto id = service_.model.tokenizer->FindSpecial(text);
    ASSERT_TRUE(id.has_value()) << text;
    for (const int32_t found : Tokenize(absl::StrCat("a ", text, " b"))) {
      EXPECT_NE(found, *id) << text;
      EXPECT_FALSE(service_.model.tokenizer->IsSpecial(found)) << text;
    }
    EXPECT_EQ(service_.Generate(WithContent(text))->Wait().code, kOk);
  }
  // Halves in two messages do not meet.
  v1::GenerateRequest request = WithContent("<|sys");
  v1::ChatMessage* second = request.mutable_chat()->add_messages();
  second->set_role(v1::ROLE_USER);
  second->set_content("tem|>");
  EXPECT_EQ(service_.Generate(request)->Wait().code, kOk);
}

TEST_F(BadPromptsTest, D5AnswersAreValidUtf8WhateverTheTokens) {
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  request.mutable_sampling()->set_max_tokens(500);
  for (const uint64_t seed : {1u, 2u, 3u, 4u}) {
    request.mutable_sampling()->set_seed(seed);
    EXPECT_TRUE(IsValidUtf8(service_.Generate(request)->text()));
  }
}

TEST_F(BadPromptsTest, D6ControlCharactersStayOutOfTheLog) {
  const std::string nasty = "a\r\nFAKE {\"event\":\"x\"}\x1b[31m\x07";
  EXPECT_EQ(service_.Generate(WithContent(nasty))->Wait().code, kOk);
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  request.set_model(nasty);
  EXPECT_EQ(service_.Generate(request)->Wait().code, kNotFound);
  const auto quoted =
      service_.Generate(ServiceHarness::GoodRequest(), {.metadata = {{"x-request-id", "a\"b\\c"}}});
  EXPECT_EQ(quoted->Wait().code, kOk);
  service_.ExpectAtRest();
  EXPECT_THAT(service_.log(), Not(HasSubstr("FAKE")));
  EXPECT_THAT(service_.log(), Not(HasSubstr("\x1b")));
  EXPECT_THAT(service_.log(), HasSubstr("a\\\"b\\\\c"));
}

TEST_F(BadPromptsTest, D7TokenIds) {
  ExpectRefused(WithIds({300, -1}), "token_ids.ids[1]", "is -1; allowed is 0 to 4031");
  ExpectRefused(WithIds({4032}), "token_ids.ids[0]", "is 4032");
  ExpectRefused(WithIds({std::numeric_limits<int32_t>::max()}), "token_ids.ids[0]", "2147483647");
  ExpectRefused(WithIds({std::numeric_limits<int32_t>::min()}), "token_ids.ids[0]", "-2147483648");
  int32_t padding = 4031;
  while (service_.model.IsMapped(padding)) --padding;
  ExpectRefused(WithIds({padding}), "token_ids.ids[0]", "stands for nothing");
}

TEST_F(BadPromptsTest, TokenizeAndDetokenizeKeepTheSameRules) {
  v1::DetokenizeRequest detokenize;
  v1::DetokenizeResponse text;
  for (const int32_t id : Tokenize("caf\xC3\xA9 \xF0\x9F\x98\x80")) detokenize.add_token_ids(id);
  ASSERT_EQ(service_.Call("Detokenize", detokenize, &text).code, kOk);
  EXPECT_EQ(text.text(), "caf\xC3\xA9 \xF0\x9F\x98\x80");
  detokenize.add_token_ids(-5);
  CallEnd end = service_.Call("Detokenize", detokenize, &text);
  EXPECT_EQ(end.code, kInvalidArgument);
  EXPECT_EQ(end.reason, "INVALID_FIELDS");
  EXPECT_EQ(end.request_id.size(), 32u);
  v1::TokenizeRequest tokenize;
  v1::TokenizeResponse ids;
  end = service_.Call("Tokenize", tokenize, &ids);
  EXPECT_EQ(end.code, kInvalidArgument);
  EXPECT_THAT(end.violations, Contains(Field(&FieldViolation::field, "prompt")));
  tokenize.set_text("x");
  tokenize.set_model("other");
  EXPECT_EQ(service_.Call("Tokenize", tokenize, &ids).code, kNotFound);
  tokenize.clear_model();
  end = service_.Call("Tokenize", tokenize, &ids, {.deadline_ms = -5});
  EXPECT_EQ(end.code, kDeadlineExceeded);
  service_.ExpectUnharmed();
}

TEST_F(BadPromptsTest, TokenizeOfAChatIsWhatGenerateReads) {
  v1::TokenizeRequest tokenize;
  *tokenize.mutable_chat() = ServiceHarness::GoodRequest().chat();
  v1::TokenizeResponse ids;
  ASSERT_EQ(service_.Call("Tokenize", tokenize, &ids).code, kOk);
  EXPECT_EQ(ids.token_bytes_size(), ids.token_ids_size());
  const auto call = service_.Generate(ServiceHarness::GoodRequest());
  EXPECT_EQ(call->start().prompt_tokens(), ids.token_ids_size());
}

class NoTokenizerTest : public ::testing::Test {
 protected:
  static HarnessOptions Options() {
    HarnessOptions options;
    options.tokenizer = false;
    return options;
  }
  ServiceHarness service_{Options()};
};

TEST_F(NoTokenizerTest, TokenIdsAreServedAndTextIsRefusedByName) {
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  const auto chat = service_.Generate(request);
  EXPECT_EQ(chat->Wait().code, kFailedPrecondition);
  EXPECT_EQ(chat->Wait().reason, "NO_TOKENIZER");
  EXPECT_THAT(chat->Wait().message, HasSubstr("send token_ids and set output.no_text"));
  request.mutable_token_ids()->add_ids(300);
  const auto wants_text = service_.Generate(request);
  EXPECT_EQ(wants_text->Wait().code, kInvalidArgument);
  EXPECT_THAT(wants_text->Wait().violations,
              Contains(Field(&FieldViolation::field, "output.no_text")));
  request.mutable_output()->set_no_text(true);
  const auto ids = service_.Generate(request);
  EXPECT_EQ(ids->Wait().code, kOk) << ids->Wait().message;
  EXPECT_THAT(ids->token_ids(), SizeIs(4));
  request.mutable_sampling()->add_stop("x");
  EXPECT_THAT(service_.Generate(request)->Wait().violations,
              Contains(Field(&FieldViolation::field, "sampling.stop")));
  v1::TokenizeRequest tokenize;
  tokenize.set_text("x");
  v1::TokenizeResponse tokens;
  EXPECT_EQ(service_.Call("Tokenize", tokenize, &tokens).reason, "NO_TOKENIZER");
  v1::DetokenizeRequest detokenize;
  detokenize.add_token_ids(300);
  v1::DetokenizeResponse text;
  EXPECT_EQ(service_.Call("Detokenize", detokenize, &text).reason, "NO_TOKENIZER");
  v1::GetModelResponse model;
  ASSERT_EQ(service_.Call("GetModel", v1::GetModelRequest(), &model).code, kOk);
  EXPECT_FALSE(model.has_tokenizer());
  service_.ExpectAtRest();
}

TEST(NoChatTemplateTest, ChatIsRefusedByNameAndTextIsServed) {
  HarnessOptions options;
  options.chat_template = "none";
  ServiceHarness service(options);
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  const auto chat = service.Generate(request);
  EXPECT_EQ(chat->Wait().code, kFailedPrecondition);
  EXPECT_EQ(chat->Wait().reason, "NO_CHAT_TEMPLATE");
  request.set_text("Hello");
  EXPECT_EQ(service.Generate(request)->Wait().code, kOk);
}

}  // namespace
}  // namespace tuppence
