// vLLM's families on /metrics: the semantics that vLLM's own test pins, and its buckets.
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "gmock/gmock.h"
#include "tests/service/metrics_page.h"

namespace tuppence {
namespace {

using ::testing::HasSubstr;

using VllmMetricsTest = MetricsPageTest;

// vLLM's test, as ours: R requests of P prompt and T output tokens, one after the other.
TEST_F(VllmMetricsTest, VllmCountsOfSerialRequestsAreVllms) {
  constexpr int kRequests = 10;
  constexpr int kPrompt = 12;
  constexpr int kTokens = 7;
  for (int i = 0; i < kRequests; ++i) {
    Submit(kPrompt, kTokens);
    RunAll();
  }
  auto page = Page();
  EXPECT_EQ(page["vllm:time_to_first_token_seconds_count"], kRequests);
  EXPECT_EQ(page["vllm:inter_token_latency_seconds_count"], kRequests * (kTokens - 1));
  EXPECT_NEAR(page["vllm:inter_token_latency_seconds_sum"], kRequests * (kTokens - 1) * 1e-3, 1e-9);
  EXPECT_EQ(page["vllm:iteration_tokens_total_sum"], kRequests * (kPrompt + kTokens));
  EXPECT_EQ(page["vllm:iteration_tokens_total_count"], kRequests * kTokens);
  EXPECT_EQ(page["vllm:prompt_tokens_total"], kRequests * kPrompt);
  EXPECT_EQ(page["vllm:generation_tokens_total"], kRequests * kTokens);
  EXPECT_EQ(page["vllm:request_prompt_tokens_sum"], kRequests * kPrompt);
  EXPECT_EQ(page["vllm:request_prompt_tokens_count"], kRequests);
  EXPECT_EQ(page["vllm:request_generation_tokens_sum"], kRequests * kTokens);
  EXPECT_EQ(page["vllm:request_generation_tokens_bucket{le=\"10\"}"], kRequests);
  EXPECT_EQ(page["vllm:request_generation_tokens_bucket{le=\"5\"}"], 0);
  EXPECT_EQ(page["vllm:request_params_n_bucket{le=\"1\"}"], kRequests);
  EXPECT_EQ(page["vllm:e2e_request_latency_seconds_count"], kRequests);
  EXPECT_NEAR(page["vllm:e2e_request_latency_seconds_sum"], kRequests * kTokens * 1e-3, 1e-9);
  EXPECT_EQ(page["vllm:request_success_total{finished_reason=\"length\"}"], kRequests);
  EXPECT_EQ(page["vllm:request_success_total{finished_reason=\"abort\"}"], 0);
  EXPECT_EQ(page["vllm:prompt_tokens_by_source_total{source=\"local_compute\"}"],
            kRequests * kPrompt);
  EXPECT_EQ(page["vllm:prompt_tokens_cached_total"], 0);
  // Each of these sees a request once. Its first step takes its prompt, each other one a token.
  const std::pair<const char*, double> kSums[] = {
      {"request_params_max_tokens", kTokens},
      {"request_params_n", 1},
      {"request_prompt_tokens", kPrompt},
      {"request_generation_tokens", kTokens},
      {"request_max_num_generation_tokens", kTokens},
      {"request_prefill_kv_computed_tokens", kPrompt},
      {"time_to_first_token_seconds", 1e-3},
      {"request_time_per_output_token_seconds", 1e-3},
      {"request_queue_time_seconds", 0},
      {"request_prefill_time_seconds", 1e-3},
      {"request_decode_time_seconds", (kTokens - 1) * 1e-3},
      {"request_inference_time_seconds", kTokens * 1e-3},
      {"e2e_request_latency_seconds", kTokens * 1e-3},
  };
  for (const auto& [family, each] : kSums) {
    const std::string name = absl::StrCat("vllm:", family);
    EXPECT_EQ(page.at(name + "_count"), kRequests) << name;
    EXPECT_NEAR(page.at(name + "_sum"), kRequests * each, 1e-9) << name;
    EXPECT_EQ(page.at(name + "_bucket{le=\"+Inf\"}"), kRequests) << name;
  }
}

TEST_F(VllmMetricsTest, ChoicesOfOneRequestAreOneRequest) {
  Submit(12, 5, "acme", /*choices=*/3);
  RunAll();
  auto page = Page();
  EXPECT_EQ(page["vllm:request_params_n_sum"], 3);
  EXPECT_EQ(page["vllm:request_params_max_tokens_sum"], 5);
  EXPECT_EQ(page["vllm:request_generation_tokens_sum"], 15);
  EXPECT_EQ(page["vllm:request_max_num_generation_tokens_sum"], 5);
  EXPECT_EQ(page["vllm:request_prompt_tokens_count"], 1);
}

TEST_F(VllmMetricsTest, WhatIsComputedAgainIsNoPromptOfACallers) {
  for (int i = 0; i < 6; ++i) Submit(20, 60);  // 480 tokens, and room for 256
  RunAll();
  auto page = Page();
  const EngineSnapshot engine = engine_.Snapshot();
  EXPECT_GT(engine.preemptions, 0);
  EXPECT_EQ(page["vllm:num_preemptions_total"], engine.preemptions);
  EXPECT_EQ(page["tuppence_preemptions_total"], engine.preemptions);
  EXPECT_GT(engine.recomputed_tokens, 0);
  EXPECT_EQ(page["vllm:prompt_tokens_recomputed_total"], engine.recomputed_tokens);
  EXPECT_EQ(page["tuppence_tokens_total{phase=\"recomputed\"}"], engine.recomputed_tokens);
  EXPECT_EQ(page["vllm:prompt_tokens_total"], 6 * 20);
  EXPECT_EQ(page["vllm:generation_tokens_total"], 6 * 60);
  EXPECT_EQ(page["vllm:request_prefill_kv_computed_tokens_sum"], 6 * 20);
}

TEST_F(VllmMetricsTest, WhoIsRefusedAtTheDoorIsCounted) {
  AdmissionLimits limits;
  limits.requests_max = 2;
  limits.tenant_requests_max = 1;
  AdmissionControl admission(limits);
  parts_.admission = &admission;
  const auto acme = admission.Reserve("acme", 10);
  const auto again = admission.Reserve("acme", 10);
  const auto globex = admission.Reserve("globex", 10);
  const auto third = admission.Reserve("initech", 10);
  EXPECT_TRUE(acme.ok() && globex.ok());
  EXPECT_FALSE(again.ok() || third.ok());
  auto page = Page();
  EXPECT_EQ(page["vllm:admission_rejections_total"], 2);
  EXPECT_EQ(page["tuppence_admission_refused_total{scope=\"tenant\"}"], 1);
  EXPECT_EQ(page["tuppence_admission_refused_total{scope=\"global\"}"], 1);
  EXPECT_EQ(page["tuppence_requests_held"], 2);
  EXPECT_EQ(page["tuppence_requests_held_limit"], 2);
  EXPECT_EQ(page["tuppence_prompt_tokens_held"], 20);
}

// vllm/v1/metrics/buckets.py and loggers.py; a model of 4,096 tokens.
TEST(VllmMetricTableTest, BucketsAreVllms) {
  using Buckets = std::vector<double>;
  const Buckets first_token = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                               1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
  const Buckets token = {.01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                         .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80};
  const Buckets request = {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                           30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
  const Buckets tokens = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000};
  const std::map<std::string, Buckets> expected = {
      {"time_to_first_token_seconds", first_token},
      {"inter_token_latency_seconds", token},
      {"request_time_per_output_token_seconds", token},
      {"e2e_request_latency_seconds", request},
      {"request_queue_time_seconds", request},
      {"request_inference_time_seconds", request},
      {"request_prefill_time_seconds", request},
      {"request_decode_time_seconds", request},
      {"request_prompt_tokens", tokens},
      {"request_generation_tokens", tokens},
      {"request_params_max_tokens", tokens},
      {"request_max_num_generation_tokens", tokens},
      {"request_prefill_kv_computed_tokens", tokens},
      {"request_params_n", {1, 2, 5, 10, 20}},
      {"iteration_tokens_total", {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384}}};
  std::map<std::string, Buckets> found;
  for (const MetricSpec& spec : MakeMetricTable(4096)) {
    if (!spec.is_vllm() || spec.kind != MetricKind::kHistogram) continue;
    found[std::string(absl::StripPrefix(spec.name, "vllm:"))] = spec.buckets;
  }
  EXPECT_EQ(found, expected);
}

TEST_F(VllmMetricsTest, VllmCountsOfRequestsInCompanyAddUpTheSame) {
  for (int i = 0; i < 6; ++i) Submit(10 + i, 5);
  RunAll();
  auto page = Page();
  EXPECT_EQ(page["vllm:inter_token_latency_seconds_count"], 6 * 4);
  EXPECT_EQ(page["vllm:iteration_tokens_total_sum"], 75 + 6 * 5);
}

TEST_F(VllmMetricsTest, GaugesGoBackToZeroAfterAnAbort) {
  const auto first = Submit(12, 100);
  const auto second = Submit(12, 100);
  for (int i = 0; i < 5; ++i) Step();
  auto page = Page();
  EXPECT_EQ(page["vllm:num_requests_running"], 2);
  EXPECT_GT(page["vllm:kv_cache_usage_perc"], 0);
  EXPECT_GT(page["tuppence_kv_blocks_used"], 0);
  first->Cancel();
  second->Cancel();
  RunAll();
  page = Page();
  EXPECT_EQ(page["vllm:num_requests_running"], 0);
  EXPECT_EQ(page["vllm:num_requests_waiting"], 0);
  EXPECT_EQ(page["vllm:kv_cache_usage_perc"], 0);
  EXPECT_EQ(page["vllm:request_success_total{finished_reason=\"abort\"}"], 2);
  EXPECT_EQ(page["tuppence_requests_ended_total{outcome=\"cancelled\"}"], 2);
  EXPECT_EQ(page["tuppence_kv_blocks_used"], 0);
  EXPECT_EQ(page["tuppence_kv_blocks_free"], 64);
}

TEST_F(VllmMetricsTest, WhatEndpointPickersReadIsThereBeforeTheFirstRequest) {
  const std::string page = metrics_.Format(parts_);
  for (const char* family :
       {"vllm:num_requests_running{", "vllm:num_requests_waiting{", "vllm:kv_cache_usage_perc{",
        "vllm:engine_sleep_state{", "vllm:num_preemptions_total{", "vllm:prefix_cache_hits_total{",
        "vllm:request_success_total{", "vllm:time_to_first_token_seconds_bucket{"}) {
    EXPECT_THAT(page, HasSubstr(family));
  }
  EXPECT_THAT(page, HasSubstr("vllm:cache_config_info{model_name=\"test\",engine=\"0\","
                              "block_size=\"4\",num_gpu_blocks=\"64\""));
}

}  // namespace
}  // namespace tuppence
