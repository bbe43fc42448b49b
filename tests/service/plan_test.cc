// Plans: step times follow from a machine's peaks and fractions, break-even points from prices, and
// what is shown follows from both.
#include "service/planner/plan.h"

#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/synthetic.h"
#include "scheduler/step_cost_model.h"
#include "service/plan_command.h"
#include "service/planner/plan_forms.h"
#include "service/planner/plan_machines.h"
#include "service/text_table.h"
#include "tests/service/usage_files.h"

namespace tuppence {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kSecond = 1'000'000'000;

PlanModel Mini(const std::string& weights, const std::string& kv) {
  PlanModel model;
  model.options.model = "synthetic:phi-3-mini-4k";
  model.options.weights = weights;
  model.options.kv = kv;
  model.config = *SyntheticConfig("synthetic:phi-3-mini-4k");
  return model;
}

MachineSpeed Known(const std::string& name) {
  for (const MachineSpeed& speed : KnownMachineSpeeds()) {
    if (speed.name == name) return speed;
  }
  ADD_FAILURE() << name << " is not in the table";
  return {};
}

// A machine that reaches its peaks.
MachineSpeed Perfect() {
  MachineSpeed speed = Known("aws-g4dn.xlarge");
  for (auto* fractions : {&speed.weights_read, &speed.matmul, &speed.kv_read}) {
    for (auto& [type, fraction] : *fractions) fraction = {1, 1};
  }
  speed.attention = {1, 1};
  speed.launch_us = 1;
  return speed;
}

ReferencePrice Api(int64_t input_micro_usd, int64_t output_micro_usd) {
  ReferencePrice price;
  price.name = "an-api";
  price.date = "2026-11-25";
  price.input_micro_usd = price.cached_input_micro_usd = input_micro_usd;
  price.output_micro_usd = output_micro_usd;
  return price;
}

// Some minutes of traffic that a T4 serves with ease.
PlanQuestion Question() {
  PlanQuestion question;
  question.traffic = *DrawTraffic({.rate = 0.5}, /*seconds=*/300);
  question.model = "phi-3-mini-4k";
  question.machines = {MachineFor(Known("aws-g4dn.xlarge"), Mini("int4", "int8"), Assume::kMiddle)};
  question.goals = {.ttft_p95_ns = 2 * kSecond, .itl_p95_ns = kSecond / 5};
  question.reference = Api(150'000, 600'000);
  return question;
}

TEST(PlanMachinesTest, StepsTakeWhatThePeaksGive) {
  const PlanMachine machine = MachineFor(Perfect(), Mini("int4", "int8"), Assume::kMiddle);
  ASSERT_TRUE(machine.fits.ok()) << machine.fits;
  const StepCostCoefficients& cost = machine.engine.cost;
  // Phi-3-mini: 3.62e9 parameters in its layers, four bits and an f16 scale for each 32 of them,
  // and an int8 head; 320 GB/s and 65 TFLOPS.
  const double layers = 32 * 113'246'208.0;
  const double head = 32'064 * 3'072.0;
  EXPECT_NEAR(cost.weights_ns, (layers * (0.5 + 2.0 / 32) + head * (1 + 2.0 / 128)) / 320,
              0.01 * cost.weights_ns);
  EXPECT_NEAR(cost.token_ns, 2 * (layers + head) / 65e3, 0.001 * cost.token_ns);
  EXPECT_NEAR(cost.attention_ns, 4.0 * 32 * 3072 / 65e3, 0.001 * cost.attention_ns);
  EXPECT_NEAR(cost.kv_read_ns, 196'608.0 / 320, 0.05 * cost.kv_read_ns);  // and its scales
}

TEST(PlanMachinesTest, AssumptionsSpreadBetweenTheirEnds) {
  const MachineSpeed t4 = Known("aws-g4dn.xlarge");
  const auto weights_ns = [&](Assume assume) {
    return MachineFor(t4, Mini("int4", "int8"), assume).engine.cost.weights_ns;
  };
  EXPECT_GT(weights_ns(Assume::kLow), weights_ns(Assume::kMiddle));
  EXPECT_GT(weights_ns(Assume::kMiddle), weights_ns(Assume::kHigh));
  EXPECT_THAT(MachineFor(t4, Mini("int4", "int8"), Assume::kLow).basis,
              HasSubstr("ASSUMED, not measured"));
}

TEST(PlanMachinesTest, EveryMachineOfTheTableIsSoundAndThoseThatRanNothingOfOursAreMarked) {
  const std::set<std::string> ran = {"nvidia-h200", "aws-m7a.large", "aws-m7i.xlarge"};
  for (const MachineSpeed& speed : KnownMachineSpeeds()) {
    const PlanMachine machine = MachineFor(speed, Mini("int4", "int8"), Assume::kMiddle);
    EXPECT_TRUE(machine.fits.ok()) << speed.name << ": " << machine.fits;
    EXPECT_EQ(machine.assumed, !ran.contains(speed.name)) << speed.name;
    EXPECT_EQ(machine.price.known(), speed.name != "nvidia-h200") << speed.name;
  }
}

// A decode step of 8 sequences with 1,024 positions each, int4 weights and int8 keys and values,
// took 3.08 ms on an H200 (bench/results/2026-11-26-gpu_check-nvidia-h200.md).
TEST(PlanMachinesTest, AMeasuredMachinesStepsTakeWhatWasMeasured) {
  const PlanMachine machine =
      MachineFor(Known("nvidia-h200"), Mini("int4", "int8"), Assume::kMiddle);
  const StepCostModel model(machine.engine.cost, /*players_max=*/0);
  EXPECT_NEAR(1e-6 * model.StepNs({.tokens = 8, .query_keys = 8192, .kv_read_tokens = 8192}), 3.08,
              0.1);
}

TEST(PlanMachinesTest, AnAssumedRangeReachesDownToWhatOurKernelsDidElsewhere) {
  const MachineSpeed h200 = Known("nvidia-h200");
  for (const MachineSpeed& speed : KnownMachineSpeeds()) {
    if (speed.measured) continue;
    for (const auto& [type, fraction] : speed.matmul) {
      EXPECT_LE(fraction.low, h200.matmul.at(type).low) << speed.name << " " << type;
    }
    for (const auto& [type, fraction] : speed.weights_read) {
      EXPECT_LE(fraction.low, h200.weights_read.at(type).low) << speed.name << " " << type;
    }
    for (const auto& [type, fraction] : speed.kv_read) {
      EXPECT_LE(fraction.low, h200.kv_read.at(type).low) << speed.name << " " << type;
    }
    EXPECT_LE(speed.attention.low, h200.attention.low) << speed.name;
    EXPECT_GE(speed.launch_us, h200.launch_us) << speed.name;
  }
}

TEST(PlanMachinesTest, WhatDoesNotFitSaysWhy) {
  const MachineSpeed t4 = Known("aws-g4dn.xlarge");
  PlanModel medium = Mini("bf16", "bf16");
  medium.config = *SyntheticConfig("synthetic:phi-3-medium-4k");
  EXPECT_THAT(std::string(MachineFor(t4, medium, Assume::kMiddle).fits.message()),
              AllOf(HasSubstr("not enough memory"), HasSubstr("--weights int4")));
  EXPECT_THAT(std::string(MachineFor(t4, Mini("f32", "bf16"), Assume::kMiddle).fits.message()),
              HasSubstr("f32"));
}

TEST(PlanMachinesTest, ATableThatIsWrongNamesMachineAndField) {
  const std::string row =
      "{\"machine\": \"m\", \"what\": \"w\", \"kind\": \"gpu\", \"memory_gib\": 16, "
      "\"bandwidth_gb_per_s\": 300, \"arithmetic_tflops\": 60, \"launch_us\": 400, \"source\": "
      "\"s\", \"fractions\": {\"kind\": \"measured\", \"source\": \"s\", \"weights_read\": "
      "{\"int4\": 0.5}, \"matmul\": {\"int4\": 0.5}, \"kv_read\": {\"int8\": 0.5}, "
      "\"attention\": 0.3}}";
  const auto with = [&row](const std::string& from, const std::string& to) {
    std::string changed = row;
    changed.replace(changed.find(from), from.size(), to);
    return ParseMachineSpeeds(absl::StrCat("{\"machines\": [", changed, "]}"));
  };
  ASSERT_TRUE(with("16", "16").ok()) << with("16", "16").status();
  EXPECT_FALSE((*with("16", "16"))[0].price.known());
  const std::tuple<const char*, const char*, const char*> cases[] = {
      {"\"kind\": \"gpu\"", "\"kind\": \"tpu\"", "machine \"m\": kind is \"tpu\""},
      {"\"memory_gib\": 16", "\"memory_gib\": -1", "memory_gib is -1"},
      {"\"memory_gib\": 16, ", "", "needs \"memory_gib\""},
      {"\"launch_us\"", "\"launch_ms\"", "\"launch_ms\" is not known"},
      {"0.3", "1.3", "attention is 1.3"},
      {"0.3", "[0.5, 0.4]", "the lower one first"},
      {"{\"int4\": 0.5}", "{\"int5\": 0.5}", "\"int5\" is not known"},
      {"\"source\": \"s\", \"fractions\"", "\"usd_per_hour\": \"x\", \"fractions\"", "needs"},
  };
  for (const auto& [from, to, message] : cases) {
    const auto read = with(from, to);
    EXPECT_THAT(std::string(read.status().message()), HasSubstr(message)) << to;
  }
}

TEST(PlanMachinesTest, AServicesStatusPageIsAMachine) {
  const std::string path = EmptyFolder() + "/status.json";
  const auto write = [&path](const std::string& text) { std::ofstream(path) << text; };
  write(R"({"model": {"name": "demo", "backend": "cpu", "kernels": "avx2", "context_tokens": 512,
            "sequences_max": 64, "step_tokens_max": 256}, "kv": {"blocks": 900, "block_tokens": 16},
            "last_step": {"steps": 5000, "model_error_p50": 0.031},
            "rate_card": {"id": "price-0.1", "usd_per_hour": 0.1, "machine_share": 0.5},
            "step_cost": {"launch_ns": 1, "weights_ns": 2, "token_ns": 3, "attention_ns": 4,
            "kv_read_ns": 5}})");
  const auto machine = MachineOfStatus(path, /*itl_target_ms=*/50);
  ASSERT_TRUE(machine.ok()) << machine.status();
  EXPECT_EQ(machine->engine.blocks, 900);
  EXPECT_EQ(machine->engine.sequences_max, 64);
  EXPECT_EQ(machine->engine.itl_target_ns, kSecond / 20);
  EXPECT_EQ(machine->engine.cost, (StepCostCoefficients{1, 2, 3, 4, 5}));
  EXPECT_EQ(machine->price.micro_usd_per_hour, 100'000);
  EXPECT_EQ(machine->price.machine_share_ppm, 500'000);
  write("loading the model\n");
  EXPECT_THAT(std::string(MachineOfStatus(path, 50).status().message()), HasSubstr("curl -s"));
}

// At a small API's price a T4 has to answer 4.7 million calls of 300 + 60 tokens a month to be
// worth its hours, against a large one's 284,000.
TEST(PlanTest, BreakEvenIsTheMonthsHoursOverThePriceOfACall) {
  PlanQuestion question = Question();
  EXPECT_NEAR(MakePlan(question).machines[0].break_even_calls, 4.74e6, 0.01e6);
  question.reference = Api(2'500'000, 10'000'000);
  EXPECT_NEAR(MakePlan(question).machines[0].break_even_calls, 284'400, 500);
}

TEST(PlanTest, TheBooksOfARowAddUp) {
  const PlanQuestion question = Question();
  const Plan plan = MakePlan(question);
  ASSERT_EQ(plan.machines.size(), 1u);
  for (const PlanRow& row : plan.machines[0].rows) {
    const ReplicaResult& result = *row.result;
    EXPECT_EQ(result.requests, static_cast<int64_t>(question.traffic.arrivals.size()));
    EXPECT_EQ(result.prompt_tokens, question.traffic.prompt_tokens);
    EXPECT_EQ(result.accounts.sum_ns(), result.elapsed_ns);
    EXPECT_EQ(row.cost_nanousd, NanoUsd(question.machines[0].price, result.elapsed_ns));
    EXPECT_NEAR(row.idle_share() + 1e-9 * result.accounts.request_ns / row.seconds() / row.replicas,
                1, 1e-9);
    EXPECT_GT(row.ttft_ns(0.95), 0);
  }
}

TEST(PlanTest, ReplicasAreAddedUntilTheGoalsAreMetAndOnceBeyond) {
  PlanQuestion question = Question();
  const Plan first = MakePlan(question);
  const MachinePlan& one = first.machines[0];
  ASSERT_EQ(one.cheapest, 0);
  ASSERT_EQ(one.rows.size(), 2u);
  EXPECT_LE(one.rows[1].ttft_ns(0.95), one.rows[0].ttft_ns(0.95));
  // More than one of them can do.
  question.traffic = *DrawTraffic({.rate = 1.5 * one.capacity_requests_per_second}, 300);
  const Plan second = MakePlan(question);
  const MachinePlan& more = second.machines[0];
  ASSERT_GT(more.cheapest, 0);
  EXPECT_FALSE(more.rows[0].meets_goals);
  EXPECT_GE(more.rows[more.cheapest].replicas, 2);
}

TEST(PlanTest, ThreadsChangeNothing) {
  PlanQuestion question = Question();
  question.machines.push_back(
      MachineFor(Known("aws-m7i.xlarge"), Mini("int4", "int8"), Assume::kMiddle));
  question.traffic = *DrawTraffic({.rate = 8}, 120);
  const std::string alone = FormatPlanJson(question, MakePlan(question));
  for (const int threads : {2, 5, 16}) {
    question.threads = threads;
    EXPECT_EQ(FormatPlanJson(question, MakePlan(question)), alone) << threads;
  }
}

TEST(PlanTest, StayOnTheApiWhereTheMachineCostsMore) {
  PlanQuestion question = Question();
  const Plan quiet = MakePlan(question);
  EXPECT_TRUE(quiet.stay_on_api());
  EXPECT_THAT(FormatPlanTable(question, quiet), HasSubstr("Stay on the API"));
  question.reference = Api(25'000'000, 100'000'000);
  const Plan dear = MakePlan(question);
  EXPECT_FALSE(dear.stay_on_api());
  EXPECT_THAT(FormatPlanTable(question, dear), HasSubstr("Cheaper than the API"));
}

TEST(PlanTest, AnInvoicesAmountStandsInForTheReference) {
  PlanQuestion question = Question();
  question.invoice = *MonthInvoice({10'000, 3'000'000, 600'000}, 50 * kSecond);
  question.traffic = *BusiestDayTraffic(*question.invoice, *ParseDayShape("flat"), 1, 1);
  const Plan plan = MakePlan(question);
  EXPECT_EQ(plan.calls, 10'000);
  EXPECT_EQ(plan.api_nanousd, 50 * kSecond);
  // 730 hours of a T4 are 384 USD.
  EXPECT_NEAR(1e-9 * plan.machines_nanousd(), 384, 1);
  EXPECT_TRUE(plan.stay_on_api());
}

TEST(PlanTest, JsonAndPlotSayWhatTheTableSays) {
  PlanQuestion question = Question();
  question.machines.push_back(
      MachineFor(Known("nvidia-h200"), Mini("int4", "int8"), Assume::kMiddle));
  const Plan plan = MakePlan(question);
  const nlohmann::json json = nlohmann::json::parse(FormatPlanJson(question, plan));
  const nlohmann::json& t4 = json["machines"][0];
  EXPECT_EQ(t4["assumed"], true);
  EXPECT_EQ(t4["rows"].size(), plan.machines[0].rows.size());
  EXPECT_EQ(t4["rows"][0]["requests"], question.traffic.arrivals.size());
  EXPECT_EQ(json["cheapest"]["machine"], "aws-g4dn.xlarge");
  EXPECT_EQ(json["stay_on_api"], true);
  EXPECT_TRUE(json["machines"][1]["usd_per_hour"].is_null());
  EXPECT_TRUE(json["machines"][1]["rows"][0]["usd_per_request"].is_null());
  const std::string svg = FormatPlanSvg(question, plan);
  EXPECT_THAT(svg, AllOf(HasSubstr("<svg"), HasSubstr("aws-g4dn.xlarge *"), HasSubstr("</svg>")));
  EXPECT_THAT(svg, Not(HasSubstr("h200"))) << "it has no price to draw";
  EXPECT_THAT(FormatPlanTable(question, plan),
              AllOf(HasSubstr("aws-g4dn.xlarge *"), HasSubstr("nvidia-h200"),
                    HasSubstr("break-even calls a month")));
}

// What `tuppence plan` with these words says on stderr; "" where it ended well.
std::string ErrorOf(const std::string& words) {
  CLI::App app;
  int exit_code = -1;
  AddPlanCommand(app, &exit_code);
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  app.parse(absl::StrCat("plan ", words), /*program_name_included=*/false);
  testing::internal::GetCapturedStdout();
  const std::string error = testing::internal::GetCapturedStderr();
  EXPECT_EQ(exit_code, error.empty() ? 0 : 1);
  return error;
}

TEST(PlanCommandTest, APlotUnderAnotherNameThanSvgIsRefusedBeforeItIsPlanned) {
  const std::string folder = EmptyFolder();
  const std::string words =
      "--rate 0.2 --seconds 60 --model synthetic:phi-3-mini-4k --weights int4 --kv int8 "
      "--machine aws-g4dn.xlarge --plot ";
  for (const char* name : {"/plan.png", "/plan", "/plan.svg.png"}) {
    EXPECT_THAT(ErrorOf(words + folder + name),
                AllOf(HasSubstr(name), HasSubstr("ends in .svg"), HasSubstr("rsvg-convert")));
    EXPECT_FALSE(std::filesystem::exists(folder + name));
  }
  EXPECT_EQ(ErrorOf(words + folder + "/plan.svg"), "");
  std::ifstream plot(folder + "/plan.svg");
  EXPECT_THAT(std::string(std::istreambuf_iterator<char>(plot), {}), HasSubstr("<svg"));
}

}  // namespace
}  // namespace tuppence
