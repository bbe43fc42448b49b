// The plan for programs: see plan_forms.h.
#include <nlohmann/json.hpp>

#include "service/planner/plan_forms.h"

namespace tuppence {
namespace {

using Json = nlohmann::ordered_json;

Json TimesOf(const Histogram& times) {
  return {{"mean", times.mean_seconds()},
          {"p50", times.Quantile(0.5)},
          {"p90", times.Quantile(0.9)},
          {"p95", times.Quantile(0.95)},
          {"p99", times.Quantile(0.99)}};
}

// null where it is not known: never zero.
template <typename Number>
Json Known(bool known, Number number) {
  return known ? Json(number) : Json(nullptr);
}

Json RowOf(const PlanRow& row, const MachinePlan& machine) {
  const ReplicaResult& result = *row.result;
  const bool priced = row.cost_nanousd >= 0;
  const double capacity = row.replicas * machine.capacity_tokens_per_second;
  return {{"replicas", row.replicas},
          {"keeps_up", row.keeps_up},
          {"meets_goals", row.meets_goals},
          {"time_to_first_token_seconds", TimesOf(result.time_to_first_token)},
          {"inter_token_seconds", TimesOf(result.inter_token)},
          {"end_to_end_seconds", TimesOf(result.end_to_end)},
          {"requests", result.requests},
          {"refused", result.refused},
          {"prompt_tokens", result.prompt_tokens},
          {"completion_tokens", result.completion_tokens},
          {"seconds", row.seconds()},
          {"requests_per_second", result.requests / row.seconds()},
          {"output_tokens_per_second", result.completion_tokens / row.seconds()},
          {"tokens_per_second", row.tokens_per_second()},
          {"utilisation", Known(capacity > 0, row.tokens_per_second() / capacity)},
          {"idle_share", row.idle_share()},
          {"preemptions", result.preemptions},
          {"steps", result.steps},
          {"machine_ns",
           {{"request", result.accounts.request_ns},
            {"idle", result.accounts.idle_ns},
            {"overhead", result.accounts.overhead_ns}}},
          {"cost_nanousd", Known(priced, row.cost_nanousd)},
          {"usd_per_request", Known(priced, row.usd_per_request())},
          {"usd_per_million_tokens", Known(priced, row.usd_per_million_tokens())}};
}

Json MachineOf(const PlanMachine& machine, const MachinePlan& plan) {
  const StepCostCoefficients& cost = machine.engine.cost;
  const bool priced = machine.price.known();
  const bool fits = machine.fits.ok();
  Json json = {{"machine", machine.name},
               {"what", machine.what},
               {"assumed", machine.assumed},
               {"basis", machine.basis},
               {"usd_per_hour", Known(priced, 1e-6 * machine.price.micro_usd_per_hour)},
               {"price", machine.price.id},
               {"fits", fits}};
  if (!fits) {
    json["why_not"] = std::string(machine.fits.message());
    return json;
  }
  json["kv_tokens"] = int64_t{machine.engine.blocks} * machine.engine.block_tokens;
  json["step_cost"] = {{"launch_ns", cost.launch_ns},
                       {"weights_ns", cost.weights_ns},
                       {"token_ns", cost.token_ns},
                       {"attention_ns", cost.attention_ns},
                       {"kv_read_ns", cost.kv_read_ns}};
  json["capacity_requests_per_second"] = plan.capacity_requests_per_second;
  json["capacity_calls_per_month"] = plan.capacity_calls;
  json["break_even_calls_per_month"] = Known(plan.break_even_calls > 0, plan.break_even_calls);
  json["breaks_even"] =
      Known(plan.break_even_calls > 0, plan.break_even_calls <= plan.capacity_calls);
  const bool answers = priced && plan.capacity_requests_per_second > 0;
  json["usd_per_answer"] = {
      {"used_10_percent", Known(answers, plan.UsdPerAnswer(machine.price, 0.1))},
      {"used_30_percent", Known(answers, plan.UsdPerAnswer(machine.price, 0.3))},
      {"used_100_percent", Known(answers, plan.UsdPerAnswer(machine.price, 1))}};
  json["rows"] = Json::array();
  for (const PlanRow& row : plan.rows) json["rows"].push_back(RowOf(row, plan));
  return json;
}

}  // namespace

std::string FormatPlanJson(const PlanQuestion& question, const Plan& plan) {
  const Traffic& traffic = question.traffic;
  Json json = {{"traffic",
                {{"source", traffic.source},
                 {"requests", traffic.arrivals.size()},
                 {"prompt_tokens", traffic.prompt_tokens},
                 {"completion_tokens", traffic.completion_tokens},
                 {"seconds", 1e-9 * traffic.duration_ns}}},
               {"model", question.model},
               {"goals",
                {{"ttft_p95_seconds",
                  Known(question.goals.ttft_p95_ns > 0, 1e-9 * question.goals.ttft_p95_ns)},
                 {"itl_p95_seconds",
                  Known(question.goals.itl_p95_ns > 0, 1e-9 * question.goals.itl_p95_ns)}}},
               {"machines", Json::array()}};
  for (size_t i = 0; i < plan.machines.size(); ++i) {
    json["machines"].push_back(MachineOf(question.machines[i], plan.machines[i]));
  }
  const bool api = plan.api_nanousd >= 0;
  json["api"] = api ? Json{{"name", plan.api},
                           {"calls", plan.calls},
                           {"cost_nanousd", plan.api_nanousd},
                           {"usd_per_request", plan.api_usd_per_call()}}
                    : Json(nullptr);
  json["stay_on_api"] = Known(api, plan.stay_on_api());
  json["cheapest"] = nullptr;
  if (plan.cheapest >= 0) {
    const MachinePlan& machine = plan.machines[plan.cheapest];
    json["cheapest"] = {{"machine", question.machines[plan.cheapest].name},
                        {"replicas", machine.rows[machine.cheapest].replicas},
                        {"days", plan.days},
                        {"cost_nanousd", plan.machines_nanousd()}};
  }
  return json.dump(2, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace) + "\n";
}

}  // namespace tuppence
