#include "service/plan_command.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "model/checkpoint.h"
#include "service/money.h"
#include "service/planner/plan.h"
#include "service/planner/plan_forms.h"
#include "service/planner/plan_machines.h"
#include "service/planner/trace_file.h"

namespace tuppence {
namespace {

constexpr int kMicroDecimals = 6;
constexpr int kNanoDecimals = 9;

struct Flags {
  std::string trace;
  std::string invoice;
  InvoiceDay month;
  std::string month_amount;
  std::string day_shape = "day";
  double rate = 0;
  double seconds = 3600;
  int32_t callers = 0;
  int64_t requests = 2000;
  std::string prompt = "300";
  std::string output = "60";
  uint64_t seed = 1;

  ModelOptions model;
  double itl_target_ms = 100;
  AdmissionLimits admission;

  std::vector<std::string> machines;
  std::string machines_file;
  std::vector<std::string> statuses;
  std::string price_per_hour;
  Assume assume = Assume::kMiddle;
  std::string replicas = "1-8";

  std::string slo_ttft_p95;
  std::string slo_itl_p95;
  std::string reference;
  double tokens_ratio = 0;
  bool json = false;
  std::string plot;
};

absl::Status Wrong(const std::string& what) { return absl::InvalidArgumentError(what); }

absl::StatusOr<ApiInvoice> InvoiceOf(const Flags& flags) {
  if (!flags.invoice.empty()) return ReadApiInvoice(flags.invoice);
  std::optional<int64_t> amount;
  if (!flags.month_amount.empty()) {
    const absl::StatusOr<int64_t> parsed = ParseDecimal(flags.month_amount, kNanoDecimals);
    if (!parsed.ok() || *parsed < 0) {
      return Wrong(absl::StrCat("--month-amount is \"", flags.month_amount,
                                "\"; it needs an amount in USD, as 81.50"));
    }
    amount = *parsed;
  }
  return MonthInvoice(flags.month, amount);
}

// Our tokens for each of the API's.
double TokensRatio(const Flags& flags, const std::optional<ReferencePrice>& reference) {
  if (flags.tokens_ratio > 0) return flags.tokens_ratio;
  return reference.has_value() ? 1e-6 * reference->tokens_ratio_ppm : 1;
}

absl::Status FindTraffic(const Flags& flags, PlanQuestion* question) {
  const bool invoice = !flags.invoice.empty();
  const bool month = flags.month.requests > 0;
  if (!flags.trace.empty() + (flags.rate > 0) + (flags.callers > 0) + invoice + month != 1) {
    return Wrong(
        "say what the traffic is, in one way: --trace FILE, --rate R, --callers N, --invoice FILE "
        "or --month-requests N");
  }
  absl::StatusOr<Traffic> traffic;
  if (!flags.trace.empty()) {
    traffic = ReadTrace(flags.trace);
  } else if (invoice || month) {
    absl::StatusOr<ApiInvoice> paid = InvoiceOf(flags);
    if (!paid.ok()) return paid.status();
    const absl::StatusOr<DayShape> shape = ParseDayShape(flags.day_shape);
    if (!shape.ok()) return shape.status();
    traffic = BusiestDayTraffic(*paid, *shape, TokensRatio(flags, question->reference), flags.seed);
    question->invoice = *std::move(paid);
  } else {
    const absl::StatusOr<LengthRange> prompt = ParseLengthRange(flags.prompt);
    if (!prompt.ok()) return prompt.status();
    const absl::StatusOr<LengthRange> output = ParseLengthRange(flags.output);
    if (!output.ok()) return output.status();
    const LoadShape shape = {
        .rate = flags.rate, .prompt = *prompt, .completion = *output, .seed = flags.seed};
    if (flags.rate > 0) {
      traffic = DrawTraffic(shape, flags.seconds);
    } else {
      traffic = DrawClosedLoop(shape, flags.callers, flags.requests);
    }
  }
  if (!traffic.ok()) return traffic.status();
  question->traffic = *std::move(traffic);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<MachineSpeed>> SpeedsOf(const Flags& flags) {
  std::vector<MachineSpeed> known = KnownMachineSpeeds();
  if (!flags.machines_file.empty()) {
    absl::StatusOr<std::vector<MachineSpeed>> read = ReadMachineSpeeds(flags.machines_file);
    if (!read.ok()) return read.status();
    known = *std::move(read);
  }
  if (flags.machines.empty()) return known;
  std::vector<MachineSpeed> chosen;
  for (const std::string& name : flags.machines) {
    const auto found = std::find_if(known.begin(), known.end(),
                                    [&](const MachineSpeed& m) { return m.name == name; });
    if (found == known.end()) {
      return absl::NotFoundError(absl::StrCat(
          "--machine ", name, ": not in the table, which has ",
          absl::StrJoin(known, ", ",
                        [](std::string* out, const MachineSpeed& m) { out->append(m.name); }),
          "; --machines FILE takes another table"));
    }
    chosen.push_back(*found);
  }
  return chosen;
}

absl::Status AddTableMachines(const Flags& flags, PlanQuestion* question) {
  if (flags.model.model.empty()) {
    return Wrong(
        "no model was named; give --model a checkpoint folder, or synthetic:phi-3-mini-4k for a "
        "published shape");
  }
  const absl::StatusOr<ModelFiles> files = OpenModel(flags.model.model);
  if (!files.ok()) return files.status();
  const absl::StatusOr<std::vector<MachineSpeed>> speeds = SpeedsOf(flags);
  if (!speeds.ok()) return speeds.status();
  const PlanModel model = {flags.model, files->config, flags.itl_target_ms};
  for (const MachineSpeed& speed : *speeds) {
    question->machines.push_back(MachineFor(speed, model, flags.assume));
  }
  question->model = absl::StrCat(flags.model.model, ", weights ", flags.model.weights,
                                 ", keys and values ", flags.model.kv);
  return absl::OkStatus();
}

absl::Status FindMachines(const Flags& flags, PlanQuestion* question) {
  for (const std::string& path : flags.statuses) {
    absl::StatusOr<PlanMachine> machine = MachineOfStatus(path, flags.itl_target_ms);
    if (!machine.ok()) return machine.status();
    question->model = absl::StrCat(machine->name, ", as it runs");
    question->machines.push_back(*std::move(machine));
  }
  // The table's as well, if somebody asks for them.
  if (flags.statuses.empty() || !flags.machines.empty() || !flags.machines_file.empty()) {
    const absl::Status status = AddTableMachines(flags, question);
    if (!status.ok()) return status;
  }
  if (flags.price_per_hour.empty()) return absl::OkStatus();
  const absl::StatusOr<int64_t> micro = ParseDecimal(flags.price_per_hour, kMicroDecimals);
  if (!micro.ok() || *micro < 0) {
    return Wrong(absl::StrCat("--price-per-hour is \"", flags.price_per_hour,
                              "\"; it needs USD an hour, as 0.526"));
  }
  for (PlanMachine& machine : question->machines) {
    if (machine.price.known()) continue;
    machine.price = {.id = absl::StrCat("price-", flags.price_per_hour),
                     .micro_usd_per_hour = *micro};
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> ParseGoal(const char* flag, const std::string& text) {
  absl::Duration duration;
  if (text.empty()) return 0;
  if (absl::ParseDuration(text, &duration) && duration > absl::ZeroDuration() &&
      duration < absl::Hours(24)) {
    return absl::ToInt64Nanoseconds(duration);
  }
  return Wrong(absl::StrCat(flag, " is \"", text, "\"; it needs a time, as 800ms or 1.5s"));
}

absl::Status ReadGoals(const Flags& flags, PlanQuestion* question) {
  const absl::StatusOr<int64_t> ttft = ParseGoal("--slo-ttft-p95", flags.slo_ttft_p95);
  if (!ttft.ok()) return ttft.status();
  const absl::StatusOr<int64_t> itl = ParseGoal("--slo-itl-p95", flags.slo_itl_p95);
  if (!itl.ok()) return itl.status();
  question->goals = {*ttft, *itl};
  const absl::StatusOr<LengthRange> replicas = ParseLengthRange(flags.replicas);
  constexpr int32_t kReplicasMax = 1000;
  if (!replicas.ok() || replicas->max > kReplicasMax) {
    return Wrong(absl::StrCat("--replicas is \"", flags.replicas, "\"; it needs a number up to ",
                              kReplicasMax, " or a range, as 1-8"));
  }
  question->replicas_min = replicas->min;
  question->replicas_max = replicas->max;
  return absl::OkStatus();
}

// Before anything is simulated, which may take minutes.
absl::Status CheckPlotName(const std::string& path) {
  if (path.empty() || absl::EndsWithIgnoreCase(path, ".svg")) return absl::OkStatus();
  return Wrong(absl::StrCat("--plot ", path, ": the plot is SVG, so its name ends in .svg; for ",
                            "another format write plan.svg and convert it, as with: rsvg-convert ",
                            "plan.svg -o plan.png"));
}

absl::StatusOr<PlanQuestion> QuestionOf(const Flags& flags) {
  PlanQuestion question;
  if (!flags.reference.empty()) {
    absl::StatusOr<ReferencePrice> reference = FindReferencePrice(flags.reference);
    if (!reference.ok()) return reference.status();
    question.reference = *std::move(reference);
  }
  absl::Status status = CheckPlotName(flags.plot);
  if (status.ok()) status = ReadGoals(flags, &question);
  if (status.ok()) status = FindTraffic(flags, &question);
  if (status.ok()) status = FindMachines(flags, &question);
  if (!status.ok()) return status;
  question.admission = flags.admission;
  question.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  return question;
}

absl::Status MakeAndShow(const Flags& flags) {
  const absl::StatusOr<PlanQuestion> question = QuestionOf(flags);
  if (!question.ok()) return question.status();
  const Plan plan = MakePlan(*question);
  const std::string text =
      flags.json ? FormatPlanJson(*question, plan) : FormatPlanTable(*question, plan);
  std::fputs(text.c_str(), stdout);
  if (flags.plot.empty()) return absl::OkStatus();
  std::ofstream file(flags.plot);
  if (file << FormatPlanSvg(*question, plan) && file.flush()) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("--plot ", flags.plot, ": cannot be written; check the path"));
}

void AddTrafficFlags(CLI::App& command, Flags* flags) {
  const char* group = "Traffic, in one of five ways";
  command
      .add_option("--trace", flags->trace,
                  "requests as they came: CSV or JSON lines of arrival, prompt_tokens, "
                  "completion_tokens, and tenant and priority_class if known; `serve "
                  "--write-trace` writes one")
      ->type_name("FILE")
      ->group(group);
  command.add_option("--rate", flags->rate, "arrivals a second, at random")
      ->check(CLI::Range(1e-6, 1e6))
      ->group(group);
  command.add_option("--callers", flags->callers, "so many who ask again once they are answered")
      ->check(CLI::Range(1, 65536))
      ->group(group);
  command
      .add_option("--invoice", flags->invoice,
                  "a model API's: CSV of day, requests, input_tokens, output_tokens, and amount "
                  "in USD if known; its busiest day is planned with")
      ->type_name("FILE")
      ->group(group);
  command.add_option("--month-requests", flags->month.requests, "the same as sums of a month")
      ->check(CLI::PositiveNumber)
      ->group(group);
  const char* more = "More about it";
  command.add_option("--seconds", flags->seconds, "with --rate: for so long")
      ->check(CLI::Range(1.0, 1e7))
      ->capture_default_str()
      ->group(more);
  command.add_option("--requests", flags->requests, "with --callers: in all")
      ->check(CLI::Range(int64_t{1}, kArrivalsMax))
      ->capture_default_str()
      ->group(more);
  command
      .add_option("--prompt", flags->prompt, "with --rate, --callers: tokens, or any in a range")
      ->type_name("N|MIN-MAX")
      ->capture_default_str()
      ->group(more);
  command.add_option("--output", flags->output, "tokens of an answer, likewise")
      ->type_name("N|MIN-MAX")
      ->capture_default_str()
      ->group(more);
  command.add_option("--seed", flags->seed, "the same seed draws the same traffic")
      ->capture_default_str()
      ->group(more);
  command.add_option("--month-input-tokens", flags->month.input_tokens, "of all requests")
      ->group(more);
  command.add_option("--month-output-tokens", flags->month.output_tokens, "of all answers")
      ->group(more);
  command.add_option("--month-amount", flags->month_amount, "what the API asked for them")
      ->type_name("USD")
      ->group(more);
  command
      .add_option("--day-shape", flags->day_shape,
                  "of an invoice's day: flat, day (the busiest hour has 1.7 times the mean) or 24 "
                  "numbers")
      ->capture_default_str()
      ->group(more);
  command
      .add_option("--tokens-ratio", flags->tokens_ratio,
                  "of an invoice: Phi-3's tokens for each of the API's; 0: as the reference price "
                  "says, else 1")
      ->check(CLI::Range(0.0, 100.0))
      ->group(more);
}

void AddModelAndMachineFlags(CLI::App& command, Flags* flags) {
  const char* group = "Model, as `serve` has it";
  command
      .add_option("--model", flags->model.model,
                  "checkpoint folder, or synthetic:NAME for a published shape")
      ->type_name("DIR")
      ->group(group);
  command.add_option("--weights", flags->model.weights)
      ->check(CLI::IsMember({"bf16", "f16", "f32", "int8", "int4"}))
      ->capture_default_str()
      ->group(group);
  command.add_option("--kv", flags->model.kv)
      ->check(CLI::IsMember({"bf16", "f16", "f32", "int8"}))
      ->capture_default_str()
      ->group(group);
  command.add_option("--kv-memory", flags->model.kv_memory_bytes)
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false))
      ->type_name("SIZE")
      ->group(group);
  command.add_option("--sequences-max", flags->model.sequences_max)
      ->check(CLI::Range(1, 65536))
      ->capture_default_str()
      ->group(group);
  command.add_option("--step-tokens-max", flags->model.step_tokens_max)
      ->check(CLI::Range(64, 65536))
      ->capture_default_str()
      ->group(group);
  command.add_option("--itl-target-ms", flags->itl_target_ms)
      ->check(CLI::Range(0.0, 1e7))
      ->capture_default_str()
      ->group(group);
  group = "Machines";
  command
      .add_option("--machine", flags->machines,
                  "a name of the table, more than once if you like; without one all of them")
      ->type_name("NAME")
      ->group(group);
  command
      .add_option("--machines", flags->machines_file,
                  "another table, of the form of deploy/machine_speeds.json")
      ->type_name("FILE")
      ->group(group);
  command
      .add_option("--status", flags->statuses,
                  "the machine of a service that runs: its /status page, with step costs as "
                  "fitted to its own steps")
      ->type_name("FILE")
      ->group(group);
  command
      .add_option("--price-per-hour", flags->price_per_hour, "of the machines that have no price")
      ->type_name("USD")
      ->group(group);
  command.add_option("--replicas", flags->replicas, "how many may be tried")
      ->type_name("N|MIN-MAX")
      ->capture_default_str()
      ->group(group);
  const std::map<std::string, Assume> assumes = {
      {"low", Assume::kLow}, {"middle", Assume::kMiddle}, {"high", Assume::kHigh}};
  command
      .add_option("--assume", flags->assume,
                  "which end of a range that is assumed, where a machine was not measured")
      ->transform(CLI::CheckedTransformer(assumes).description("low|middle|high"))
      ->default_str("middle")
      ->group(group);
}

void AddGoalFlags(CLI::App& command, Flags* flags) {
  const char* group = "Goals and form";
  command.add_option("--slo-ttft-p95", flags->slo_ttft_p95, "time to the first token, as 800ms")
      ->type_name("TIME")
      ->group(group);
  command.add_option("--slo-itl-p95", flags->slo_itl_p95, "between two tokens, as 60ms")
      ->type_name("TIME")
      ->group(group);
  command
      .add_option("--reference-price", flags->reference,
                  "model API to compare with: a name of deploy/reference_prices.json or a file")
      ->type_name("NAME|FILE")
      ->group(group);
  const std::map<std::string, bool> forms = {{"table", false}, {"json", true}};
  command.add_option("--format", flags->json, "for people or for programs")
      ->transform(CLI::CheckedTransformer(forms).description("table|json"))
      ->default_str("table")
      ->group(group);
  command.add_option("--plot", flags->plot, "cost against latency, as SVG")
      ->type_name("FILE.svg")
      ->group(group);
}

}  // namespace

void AddPlanCommand(CLI::App& app, int* exit_code) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "plan", "What traffic would be like, and cost, on machines you have not rented yet");
  command->footer(
      "The real scheduler runs in virtual time on a model of each machine. A speed marked * was\n"
      "not measured there but lies in an assumed range, which the notes below the table name.\n\n"
      "  tuppence plan --trace trace.csv --model synthetic:phi-3-mini-4k --weights int4 --kv int8\n"
      "      --slo-ttft-p95 1s --slo-itl-p95 60ms --reference-price gpt-4o-mini --plot plan.svg\n"
      "  tuppence plan --month-requests 1000000 --month-input-tokens 300000000\n"
      "      --month-output-tokens 60000000 --model synthetic:phi-3-mini-4k --weights int4");
  AddTrafficFlags(*command, flags.get());
  AddModelAndMachineFlags(*command, flags.get());
  AddGoalFlags(*command, flags.get());
  command->callback([flags, exit_code] {
    const absl::Status status = MakeAndShow(*flags);
    *exit_code = status.ok() ? 0 : 1;
    if (!status.ok()) {
      std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
    }
  });
}

}  // namespace tuppence
