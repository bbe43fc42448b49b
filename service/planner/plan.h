// Plan: what some traffic would be like, and cost, on machines that nobody has rented yet. For each
// machine and number of replicas the traffic runs through Replica, the real scheduler in virtual
// time; beside it stands what a model API asks for the same. Used by plan_command; plan_table,
// plan_json and plan_plot show it. Pure: the threads that share the replicas among them change
// nothing but how long it takes.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "scheduler/rate_card.h"
#include "service/planner/invoice_traffic.h"
#include "service/planner/traffic.h"
#include "service/reference_price.h"

namespace tuppence {

// A machine with the model on it.
struct PlanMachine {
  std::string name;
  std::string what;
  std::string basis;     // where its speed comes from
  bool assumed = false;  // some of it was not measured
  RateCard price;
  absl::Status fits;     // why the model cannot run there
  EngineOptions engine;  // blocks, limits, step costs
};

struct PlanGoals {
  int64_t ttft_p95_ns = 0;  // 0: any
  int64_t itl_p95_ns = 0;
};

struct PlanQuestion {
  Traffic traffic;
  std::string model;  // for people: name and types
  std::vector<PlanMachine> machines;
  AdmissionLimits admission;
  int32_t replicas_min = 1;
  int32_t replicas_max = 8;
  PlanGoals goals;
  std::optional<ReferencePrice> reference;
  // What the traffic is a day of. Its amount stands in for the reference's, where it is known.
  std::optional<ApiInvoice> invoice;
  int threads = 1;  // > 0
};

// One machine at one number of replicas.
struct PlanRow {
  int32_t replicas = 0;
  std::unique_ptr<ReplicaResult> result;  // all replicas together
  bool keeps_up = false;  // nobody was refused, and the last answers came soon after the last calls
  bool meets_goals = false;   // and they are met
  int64_t cost_nanousd = -1;  // machines held for the traffic's time; -1: no price

  double seconds() const { return 1e-9 * result->elapsed_ns / replicas; }  // held
  double idle_share() const;
  double tokens_per_second() const;
  double usd_per_request() const;
  double usd_per_million_tokens() const;
  int64_t ttft_ns(double quantile) const;
  int64_t itl_ns(double quantile) const;
};

struct MachinePlan {
  // The most of this mix that one replica can serve, its queue never empty.
  double capacity_requests_per_second = 0;
  double capacity_tokens_per_second = 0;
  std::vector<PlanRow> rows;  // that were tried, by replicas; none where the model does not fit
  int cheapest = -1;          // first row that meets the goals
  // Calls a month at which one machine costs what the API asks; 0: not known.
  double break_even_calls = 0;
  double capacity_calls = 0;  // a month that it could serve

  // One answer's cost with the machine used to that part.
  double UsdPerAnswer(const RateCard& price, double used) const;
};

struct Plan {
  std::vector<MachinePlan> machines;  // as the question's
  int cheapest = -1;                  // machine whose cheapest row costs least
  // The traffic is one of so many days that an invoice covers; machines are held for all of them.
  double days = 1;
  int64_t calls = 0;  // in all of them
  // What the API asks for all calls: the invoice's amount, or by the reference; -1: not known.
  int64_t api_nanousd = -1;
  std::string api;  // which

  double api_usd_per_call() const {
    return api_nanousd < 0 ? 0 : 1e-9 * static_cast<double>(api_nanousd) / calls;
  }
  // Of the cheapest machine's cheapest row. Requires: there is one.
  int64_t machines_nanousd() const;
  bool stay_on_api() const;
};

constexpr double kMonthHours = 730;

Plan MakePlan(const PlanQuestion& question);

}  // namespace tuppence
