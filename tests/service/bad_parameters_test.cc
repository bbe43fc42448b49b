// Bad parameters, row by row of our list (section C): each gets its code and its details, and
// leaves the service as it was.
#include <cmath>
#include <functional>
#include <limits>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/service/service_harness.h"

namespace tuppence {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::Pair;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

class BadParametersTest : public ::testing::Test {
 protected:
  using Change = std::function<void(v1::GenerateRequest&)>;

  const CallEnd& Send(const Change& change, CallOptions options = {}) {
    v1::GenerateRequest request = ServiceHarness::GoodRequest();
    change(request);
    call_ = service_.Generate(request, std::move(options));
    return call_->Wait();
  }

  void ExpectEveryErrorsParts(const CallEnd& end) {
    EXPECT_EQ(end.domain, "tuppence");
    EXPECT_THAT(end.reason, Not(IsEmpty()));
    EXPECT_EQ(end.request_id.size(), 32u);
    EXPECT_THAT(end.trailing, Contains(Pair("tuppence-request-id", end.request_id)));
    // Nothing was committed: a client may retry.
    EXPECT_EQ(end.initial.count("tuppence-request-id"), 0u);
    EXPECT_THAT(call_->messages(), IsEmpty());
    EXPECT_THAT(end.message, Not(HasSubstr("/work")));
    EXPECT_THAT(end.message, Not(HasSubstr("checkpoint/")));
  }

  void ExpectRefused(const Change& change, const std::string& field, const std::string& words,
                     const char* reason = "INVALID_FIELDS") {
    const CallEnd& end = Send(change);
    EXPECT_EQ(end.code, kInvalidArgument) << end.message;
    EXPECT_EQ(end.reason, reason);
    EXPECT_THAT(end.violations,
                Contains(AllOf(Field(&FieldViolation::field, field),
                               Field(&FieldViolation::description, HasSubstr(words)))))
        << end.message;
    ExpectEveryErrorsParts(end);
    service_.ExpectUnharmed();
  }

  ServiceHarness service_;
  std::unique_ptr<OngoingCall> call_;
};

TEST_F(BadParametersTest, C4NumberOfChoices) {
  for (const int32_t bad : {0, -1, 9, 1000000, kHighest, kLowest}) {
    ExpectRefused([&](auto& r) { r.mutable_sampling()->set_n(bad); }, "sampling.n", "1 to 8");
  }
}

TEST_F(BadParametersTest, MaxCost) {
  for (const int64_t bad : {int64_t{0}, int64_t{-1}, std::numeric_limits<int64_t>::min()}) {
    ExpectRefused([&](auto& r) { r.set_max_cost_nanousd(bad); }, "max_cost_nanousd", "at least 1");
  }
  ServiceHarness unpriced([] {
    HarnessOptions options;
    options.engine.rate_card = {};
    return options;
  }());
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  request.set_max_cost_nanousd(1000);
  const auto call = unpriced.Generate(request);
  EXPECT_EQ(call->Wait().code, kFailedPrecondition);
  EXPECT_EQ(call->Wait().reason, "NO_RATE_CARD");
  EXPECT_THAT(call->Wait().message, HasSubstr("--price-per-hour"));
  unpriced.ExpectUnharmed();
}

TEST_F(BadParametersTest, C5MaxTokens) {
  for (const int32_t bad : {0, -1, kLowest}) {
    ExpectRefused([&](auto& r) { r.mutable_sampling()->set_max_tokens(bad); },
                  "sampling.max_tokens", "at least 1");
  }
  for (const int32_t bad : {2048, 20480, kHighest}) {
    ExpectRefused([&](auto& r) { r.mutable_sampling()->set_max_tokens(bad); },
                  "sampling.max_tokens", "exceed the model's context of 2048 tokens",
                  "CONTEXT_EXCEEDED");
    EXPECT_THAT(call_->Wait().metadata, Contains(Pair("context_tokens", "2048")));
    EXPECT_THAT(call_->Wait().metadata, Contains(Pair("max_tokens", absl::StrCat(bad))));
  }
  ExpectRefused([](auto& r) { r.mutable_sampling()->set_min_tokens(5); }, "sampling.min_tokens",
                "0 to 4");
}

TEST_F(BadParametersTest, C6Ranges) {
  for (const float bad : {-0.1f, 2.1f, kNan, kInfinity}) {
    ExpectRefused([&](auto& r) { r.mutable_sampling()->set_temperature(bad); },
                  "sampling.temperature", "0 to 2");
  }
  for (const float bad : {0.0f, -1.0f, 1.1f, kNan}) {
    ExpectRefused([&](auto& r) { r.mutable_sampling()->set_top_p(bad); }, "sampling.top_p",
                  "above 0 to 1");
  }
  for (const int32_t bad : {-2, -1, 4033, kHighest}) {
    ExpectRefused([&](auto& r) { r.mutable_sampling()->set_top_k(bad); }, "sampling.top_k",
                  "0 to 4032");
  }
  for (const float bad : {1.1f, -0.1f, kNan}) {
    ExpectRefused([&](auto& r) { r.mutable_sampling()->set_min_p(bad); }, "sampling.min_p",
                  "0 to 1");
  }
  for (const float bad : {0.0f, -1.0f, 11.0f, kNan}) {
    ExpectRefused([&](auto& r) { r.mutable_sampling()->set_repetition_penalty(bad); },
                  "sampling.repetition_penalty", "above 0 to 10");
  }
  ExpectRefused([](auto& r) { r.mutable_sampling()->set_presence_penalty(-2.5); },
                "sampling.presence_penalty", "-2 to 2");
  ExpectRefused([](auto& r) { r.mutable_sampling()->set_frequency_penalty(kNan); },
                "sampling.frequency_penalty", "-2 to 2");
}

TEST_F(BadParametersTest, C7Logprobs) {
  for (const int32_t bad : {21, -1, 4032, 4031}) {
    ExpectRefused([&](auto& r) { r.mutable_output()->set_top_logprobs(bad); },
                  "output.top_logprobs", "0 to 20");
    ExpectRefused([&](auto& r) { r.mutable_output()->set_prompt_top_logprobs(bad); },
                  "output.prompt_top_logprobs", "0 to 20");
  }
}

TEST_F(BadParametersTest, C8LogitBias) {
  for (const int32_t bad : {-1, 4032, kHighest, kLowest}) {
    ExpectRefused([&](auto& r) { (*r.mutable_sampling()->mutable_logit_bias())[bad] = 1; },
                  absl::StrCat("sampling.logit_bias[", bad, "]"), "0 to 4031");
  }
  ExpectRefused(
      [](auto& r) {
        for (int i = 0; i < 100000; ++i) (*r.mutable_sampling()->mutable_logit_bias())[i] = 1;
      },
      "sampling.logit_bias", "100000 entries; at most 1024");
  for (const float bad : {kInfinity, -kInfinity, kNan, 101.0f}) {
    ExpectRefused([&](auto& r) { (*r.mutable_sampling()->mutable_logit_bias())[5] = bad; },
                  "sampling.logit_bias[5]", "-100 to 100");
  }
  int32_t padding = 4031;
  while (service_.model.IsMapped(padding)) --padding;
  ExpectRefused([&](auto& r) { (*r.mutable_sampling()->mutable_logit_bias())[padding] = 100; },
                absl::StrCat("sampling.logit_bias[", padding, "]"), "only pads the vocabulary");
}

TEST_F(BadParametersTest, C9Stops) {
  ExpectRefused(
      [](auto& r) {
        for (int i = 0; i < 5; ++i) r.mutable_sampling()->add_stop("x");
      },
      "sampling.stop", "5 strings; at most 4");
  ExpectRefused([](auto& r) { r.mutable_sampling()->add_stop(""); }, "sampling.stop[0]",
                "has 0 bytes");
  ExpectRefused([](auto& r) { r.mutable_sampling()->add_stop(std::string(1 << 20, 'x')); },
                "sampling.stop[0]", "has 1048576 bytes; allowed is 1 to 128");
  ExpectRefused([](auto& r) { r.mutable_sampling()->add_stop_token_ids(-1); },
                "sampling.stop_token_ids[0]", "0 to 4031");
  ExpectRefused(
      [](auto& r) {
        for (int i = 0; i < 17; ++i) r.mutable_sampling()->add_stop_token_ids(5);
      },
      "sampling.stop_token_ids", "17 ids; at most 16");
}

TEST_F(BadParametersTest, C1AndC9TextThatIsNotUtf8IsAMalformedMessage) {
  for (const auto& change : std::vector<Change>{
           [](auto& r) { r.mutable_chat()->mutable_messages(0)->set_content("\xFF\xFE"); },
           [](auto& r) { r.set_text("half a character \xC3"); },
           [](auto& r) { r.set_text("\xED\xA0\x80"); },  // a lone surrogate
           [](auto& r) { r.mutable_sampling()->add_stop("\xE2\x82"); },
           [](auto& r) { r.set_model("\xFF"); }}) {
    const CallEnd& end = Send(change);
    EXPECT_EQ(end.code, kInvalidArgument) << end.message;
    EXPECT_EQ(end.reason, "MALFORMED_MESSAGE");
    EXPECT_THAT(end.message, HasSubstr("not valid UTF-8"));
    ExpectEveryErrorsParts(end);
    service_.ExpectUnharmed();
  }
}

TEST_F(BadParametersTest, C11ModelName) {
  for (const char* name : {"gpt-4", "../../etc/passwd", "demo ", "DEMO", "a\nb\x1b[2J"}) {
    const CallEnd& end = Send([&](auto& r) { r.set_model(name); });
    EXPECT_EQ(end.code, kNotFound);
    EXPECT_EQ(end.reason, "MODEL_NOT_FOUND");
    EXPECT_THAT(end.metadata, Contains(Pair("served_model", "demo")));
    EXPECT_THAT(end.message, Not(HasSubstr("\x1b")));
    EXPECT_THAT(end.message, Not(HasSubstr("\n")));
    ExpectEveryErrorsParts(end);
    service_.ExpectUnharmed();
  }
  ExpectRefused([](auto& r) { r.set_model(std::string(10240, 'm')); }, "model",
                "has 10240 bytes; at most 256");
}

TEST_F(BadParametersTest, C12UnknownFieldsAreIgnoredUnlessStrict) {
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  request.GetReflection()->MutableUnknownFields(&request)->AddLengthDelimited(99, "abc");
  EXPECT_EQ(service_.Generate(request)->Wait().code, kOk);
  HarnessOptions options;
  options.limits.strict = true;
  ServiceHarness strict(options);
  const auto refused = strict.Generate(request);
  EXPECT_EQ(refused->Wait().code, kInvalidArgument);
  EXPECT_THAT(refused->Wait().violations,
              Contains(Field(&FieldViolation::field, "field number 99")));
  v1::GenerateRequest nested = ServiceHarness::GoodRequest();
  v1::SamplingParams* sampling = nested.mutable_sampling();
  sampling->GetReflection()->MutableUnknownFields(sampling)->AddVarint(50, 1);
  EXPECT_THAT(strict.Generate(nested)->Wait().violations,
              Contains(Field(&FieldViolation::field, "sampling.field number 50")));
  strict.ExpectUnharmed();
  service_.ExpectUnharmed();
}

TEST_F(BadParametersTest, C13Messages) {
  ExpectRefused([](auto& r) { r.mutable_chat()->clear_messages(); }, "chat.messages", "is empty");
  ExpectRefused(
      [](auto& r) {
        for (int i = 0; i < 100000; ++i) {
          v1::ChatMessage* message = r.mutable_chat()->add_messages();
          message->set_role(v1::ROLE_USER);
          message->set_content("x");
        }
      },
      "chat.messages", "has 100001 messages; at most 1024");
  // Addresses in a text are text.
  for (const char* text : {"file:///etc/passwd", "http://169.254.169.254/latest", "image_url: x"}) {
    EXPECT_EQ(Send([&](auto& r) { r.mutable_chat()->mutable_messages(0)->set_content(text); }).code,
              kOk);
  }
  service_.ExpectUnharmed();
}

TEST_F(BadParametersTest, C14Deadlines) {
  service_.executor.step_us = 20'000;  // an answer at once could still be in time
  for (const int64_t past_ms : {int64_t{0}, int64_t{-1000}}) {
    const CallEnd& end = Send([](auto&) {}, {.deadline_ms = past_ms});
    EXPECT_EQ(end.code, kDeadlineExceeded);
    service_.ExpectUnharmed();
  }
  service_.executor.step_us = 0;
  // Ten years are the longest time allowed, and answered.
  const CallEnd& late = Send([](auto&) {}, {.deadline_ms = int64_t{3650} * 24 * 3600 * 1000});
  EXPECT_EQ(late.code, kOk);
  service_.ExpectUnharmed();
}

TEST_F(BadParametersTest, C14LateDeadlinesBecomeTheLongestAllowed) {
  HarnessOptions options;
  options.limits.deadline_max_ns = 150'000'000;
  ServiceHarness service(options);
  service.executor.step_us = 2000;
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  request.mutable_sampling()->set_max_tokens(1000);
  for (const std::optional<int64_t> deadline_ms :
       {std::optional<int64_t>(int64_t{3650} * 24 * 3600 * 1000), std::optional<int64_t>()}) {
    const auto call = service.Generate(request, {.deadline_ms = deadline_ms});
    EXPECT_EQ(call->Wait().code, kDeadlineExceeded);
    EXPECT_EQ(call->finish_reason(), v1::FINISH_REASON_DEADLINE);
    EXPECT_GT(call->usage().completion_tokens(), 0);
    EXPECT_GT(call->cost().machine_ns(), 0);
  }
  service.executor.step_us = 0;
  service.ExpectUnharmed();
}

TEST_F(BadParametersTest, C16EnumsOutOfRangeAndMissingFields) {
  for (const int bad : {0, 4, 99, -1}) {
    ExpectRefused(
        [&](auto& r) {
          r.mutable_chat()->mutable_messages(0)->set_role(static_cast<v1::Role>(bad));
        },
        "chat.messages[0].role", "allowed is 1 (system), 2 (user) or 3 (assistant)");
  }
  ExpectRefused([](auto& r) { r.clear_prompt(); }, "prompt", "is missing");
  ExpectRefused([](auto& r) { r.mutable_token_ids(); }, "token_ids.ids", "is empty");
  const CallEnd empty = service_.CallBytes("Generate", "");
  EXPECT_EQ(empty.code, kInvalidArgument);
  EXPECT_THAT(empty.violations, Contains(Field(&FieldViolation::field, "prompt")));
}

TEST_F(BadParametersTest, C17MalformedMessages) {
  std::string deep;  // groups within groups, as an unknown field
  for (int i = 0; i < 101; ++i) deep += "\x9B\x06";
  for (int i = 0; i < 101; ++i) deep += "\x9C\x06";
  const std::string good = ServiceHarness::GoodRequest().SerializeAsString();
  for (const std::string& bytes :
       {std::string("\xFF\xFF\xFF\xFF"), good.substr(0, good.size() - 1), absl::StrCat(good, deep),
        std::string("\x12\xFF\xFF\xFF\xFF\x0F"), std::string(1000, '\0')}) {
    for (const char* method : {"Generate", "Tokenize", "Detokenize", "GetModel", "GetUsage"}) {
      const CallEnd end = service_.CallBytes(method, bytes);
      if (bytes.size() == good.size() - 1 && std::string(method) != "Generate" && end.code == kOk) {
        continue;  // what is cut short as one message may be whole as another
      }
      EXPECT_EQ(end.code, kInvalidArgument) << method << ": " << end.message;
      EXPECT_EQ(end.request_id.size(), 32u);
    }
  }
  // A megabyte of unknown fields is read and forgotten.
  std::string unknown;
  while (unknown.size() < (1 << 20)) unknown += "\x98\x06\x01";
  v1::TokenizeRequest tokenize;
  tokenize.set_text("hello");
  EXPECT_EQ(
      service_.CallBytes("Tokenize", absl::StrCat(tokenize.SerializeAsString(), unknown)).code,
      kOk);
  service_.ExpectUnharmed();
}

TEST_F(BadParametersTest, EveryViolationIsListedAndManyAreCounted) {
  const CallEnd& end = Send([](auto& r) {
    r.mutable_sampling()->set_temperature(-1);
    r.mutable_sampling()->set_top_p(2);
    r.mutable_sampling()->set_n(0);
    r.mutable_chat()->mutable_messages(0)->set_content("");
  });
  EXPECT_EQ(end.violations.size(), 4u);
  EXPECT_THAT(end.message, HasSubstr("(and 3 more in the details)"));
  const CallEnd& many = Send([](auto& r) {
    for (int i = 0; i < 1000; ++i) {
      (*r.mutable_sampling()->mutable_logit_bias())[-1 - i] = 1;
    }
  });
  EXPECT_EQ(many.violations.size(), 16u);
  EXPECT_THAT(many.message, HasSubstr("999 more"));
}

TEST_F(BadParametersTest, CallersIdsAreCheckedAndTheServersIdIsGivenAllTheSame) {
  for (const std::string& bad : {std::string(129, 'x'), std::string()}) {
    const CallEnd& end = Send([](auto&) {}, {.metadata = {{"x-request-id", bad}}});
    EXPECT_EQ(end.code, kInvalidArgument);
    EXPECT_THAT(end.violations, Contains(Field(&FieldViolation::field, "x-request-id")));
    ExpectEveryErrorsParts(end);
  }
  const CallEnd& twice =
      Send([](auto&) {}, {.metadata = {{"x-request-id", "a"}, {"x-request-id", "b"}}});
  EXPECT_EQ(twice.code, kInvalidArgument);
  EXPECT_THAT(twice.message, HasSubstr("came 2 times"));
  EXPECT_EQ(Send([](auto&) {}, {.metadata = {{"x-request-id", std::string(128, 'x')}}}).code, kOk);
  service_.ExpectUnharmed();
}

}  // namespace
}  // namespace tuppence
