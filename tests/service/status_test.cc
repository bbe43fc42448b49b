// What `tuppence status` tells an operator first, as JSON and for people.
#include <string>

#include "gmock/gmock.h"
#include "nlohmann/json.hpp"
#include "service/status_page.h"
#include "service/store_state.h"
#include "tests/service/service_harness.h"

namespace tuppence {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

class StatusTest : public ::testing::Test {
 protected:
  StatusTest() {
    service_.executor.step_us = 1000;
    service_.model.backend = "cpu";
    service_.model.kernels = "avx512: it is there";
    service_.model.kv_block_tokens = 16;
  }

  // One request that runs, of which some tokens came.
  std::unique_ptr<OngoingCall> StartOne() {
    v1::GenerateRequest request = ServiceHarness::GoodRequest();
    request.mutable_sampling()->set_max_tokens(1500);
    auto call = service_.Start(request);
    EXPECT_TRUE(call->WaitForMessages(2));
    return call;
  }
  std::string Status(const Readiness& readiness = {.ready = true, .reason = ""}) {
    return StatusJson(service_.parts, readiness);
  }

  ServiceHarness service_;
};

TEST_F(StatusTest, ARunningRequestIsListedWithItsAge) {
  const auto call = StartOne();
  const Json status = Json::parse(Status());
  ASSERT_EQ(status["requests"].size(), 1u);
  const Json& request = status["requests"][0];
  EXPECT_EQ(request["request_id"], call->start().request_id());
  EXPECT_EQ(request["prompt_tokens"], call->start().prompt_tokens());
  EXPECT_EQ(request["max_tokens"], 1500);
  EXPECT_GE(request["completion_tokens"], 2);
  EXPECT_GE(request["age_seconds"], 0.002) << "two steps";
  EXPECT_LT(request["age_seconds"], 60);
  EXPECT_EQ(status["requests_open"], 1);
  EXPECT_EQ(status["queue"]["running"], 1);
  EXPECT_EQ(status["queue"]["waiting"], 0);
  EXPECT_EQ(status["queue"]["requests_held"], 1);
  EXPECT_GT(status["kv"]["blocks_used"], 0);
  EXPECT_GT(status["kv"]["blocks"], status["kv"]["blocks_used"]);
  EXPECT_GE(status["last_step"]["steps"], 2);
  EXPECT_GE(status["last_step"]["seconds"], 0.001);
  EXPECT_EQ(status["rate_card"]["id"], "test-card");
  EXPECT_EQ(status["conservation_error_ns"], 0);
  EXPECT_TRUE(status["store"].is_null());
  EXPECT_EQ(Status().find("order 48213"), std::string::npos) << "what was asked is nobody's here";
}

TEST_F(StatusTest, PeopleGetALineForEach) {
  const auto call = StartOne();
  const std::string text = FormatStatus(Status());
  EXPECT_THAT(text, ContainsRegex("build +tuppence [0-9.]+, ready, up "));
  EXPECT_THAT(text, ContainsRegex("kernels +avx512: it is there \\(cpu\\)"));
  EXPECT_THAT(text,
              ContainsRegex("queue +0 waiting, 1 running in 1 sequences; 1 of [0-9]+ places"));
  EXPECT_THAT(text, ContainsRegex("kv +[1-9][0-9]* of [0-9]+ blocks of 16 tokens used"));
  EXPECT_THAT(text, ContainsRegex("rate card +test-card, 0.526 USD an hour"));
  EXPECT_THAT(text, ContainsRegex("last step +[0-9.]+ ms; progress .* ago; [0-9]+ steps"));
  EXPECT_THAT(text, ContainsRegex("requests +1 open, the oldest first"));
  EXPECT_THAT(text, ContainsRegex("  " + call->start().request_id() +
                                  " +[0-9.]+ m?s +[0-9]+ prompt +[0-9]+ of +1500 tokens"));
  EXPECT_THAT(text, ContainsRegex("store +none"));
  EXPECT_THAT(text, Not(HasSubstr("NOT READY")));
}

TEST_F(StatusTest, AServiceAtRestHasNoRequests) {
  service_.ExpectAtRest();
  EXPECT_THAT(FormatStatus(Status()), ContainsRegex("requests +none open"));
}

TEST_F(StatusTest, WhatIsWrongIsSaid) {
  const std::string not_ready = FormatStatus(Status({.ready = false, .reason = "it drains"}));
  EXPECT_THAT(not_ready, ContainsRegex("build +tuppence [0-9.]+, NOT READY"));
  EXPECT_THAT(not_ready, ContainsRegex("reason +it drains"));
  service_.parts.store = [] {
    return StoreState{.path = "/x/usage.db", .rows_stored = 7, .unrecordable = true};
  };
  EXPECT_THAT(FormatStatus(Status()),
              ContainsRegex("store +/x/usage.db: 7 rows, .*; UNRECORDABLE: it cannot be written"));
  service_.engine.SetRateCard({});
  EXPECT_THAT(FormatStatus(Status()),
              ContainsRegex("rate card +none: answers carry machine time alone; --price-per-hour"));
  EXPECT_TRUE(Json::parse(Status())["rate_card"].is_null());
}

TEST_F(StatusTest, APartOfAMachineIsShownBesideItsPrice) {
  service_.engine.SetRateCard(
      {.id = "half", .micro_usd_per_hour = 1'000'000, .machine_share_ppm = 500'000});
  EXPECT_THAT(FormatStatus(Status()),
              HasSubstr("half, 1 USD an hour for the machine, 0.5 of it ours"));
}

}  // namespace
}  // namespace tuppence
