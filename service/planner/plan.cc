#include "service/planner/plan.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <map>
#include <thread>
#include <utility>

#include "service/planner/replica_search.h"

namespace tuppence {
namespace {

constexpr double kNsPerHour = 3600e9;
// Answers that end so long after the last call show a queue that only grew.
constexpr double kLateShare = 0.05;
constexpr int64_t kLateNs = 60'000'000'000;
// Requests of a run that measures capacity: so many for each place, so that its beginning and end
// are a small part of it.
constexpr int64_t kRoundsOfPlaces = 16;
// From an answer's end to its caller's next call, and from one caller's first to another's: about
// what a call takes a client and a door. It hardly matters how long it is, but that it is not 0.
constexpr int64_t kCallNs = 100'000;

double Usd(int64_t nanousd) { return 1e-9 * static_cast<double>(nanousd); }

int64_t CostOf(const RateCard& price, int64_t machine_ns) {
  return price.known() ? NanoUsd(price, machine_ns) : -1;
}

// Calls work(0), ..., work(count - 1), on so many threads.
void ForEach(size_t count, int threads, const std::function<void(size_t)>& work) {
  std::atomic<size_t> next = 0;
  const auto run = [&] {
    for (size_t i = next++; i < count; i = next++) work(i);
  };
  std::vector<std::jthread> helpers;
  for (int i = 1; i < threads; ++i) helpers.emplace_back(run);
  run();
}

struct MachineSearch;

// A row that is being simulated, replica by replica.
struct RowParts {
  MachineSearch* of = nullptr;
  int32_t replicas = 0;
  std::vector<std::unique_ptr<ReplicaResult>> results;  // by replica; null: not yet
};

struct MachineSearch {
  const PlanMachine* machine = nullptr;
  ReplicaSearch search;
  std::map<int32_t, RowParts> rows;  // by replicas
};

// The replicas take turns, as a client that balances by round robin makes them.
std::unique_ptr<ReplicaResult> Simulate(const PlanQuestion& question, const PlanMachine& machine,
                                        int32_t replicas, int32_t index) {
  auto result = std::make_unique<ReplicaResult>();
  const Traffic& traffic = question.traffic;
  const int32_t callers = (traffic.callers + replicas - 1 - index) / replicas;
  if (traffic.callers > 0 && callers == 0) return result;
  Replica replica({.engine = machine.engine,
                   .admission = question.admission,
                   .callers = callers,
                   .call_ns = kCallNs});
  replica.Run(traffic.arrivals, index, replicas, traffic.duration_ns, result.get());
  return result;
}

// The first replica of each row, or what is missing of all. Every replica is work of its own, those
// with most of it first.
void SimulateRows(const PlanQuestion& question, bool first_alone,
                  const std::vector<RowParts*>& rows) {
  std::vector<std::pair<RowParts*, int32_t>> missing;
  for (RowParts* row : rows) {
    row->results.resize(row->replicas);
    for (int32_t i = 0; i < (first_alone ? 1 : row->replicas); ++i) {
      if (row->results[i] == nullptr) missing.emplace_back(row, i);
    }
  }
  std::stable_sort(missing.begin(), missing.end(), [](const auto& a, const auto& b) {
    return a.first->replicas < b.first->replicas;
  });
  ForEach(missing.size(), question.threads, [&](size_t i) {
    const auto [row, index] = missing[i];
    row->results[index] = Simulate(question, *row->of->machine, row->replicas, index);
  });
}

// Of the replicas that are simulated.
PlanRow MakeRow(const PlanQuestion& question, const RowParts& parts) {
  PlanRow row;
  row.replicas = parts.replicas;
  row.result = std::make_unique<ReplicaResult>();
  int32_t simulated = 0;
  for (const auto& result : parts.results) {
    if (result == nullptr) continue;
    row.result->Add(*result);
    ++simulated;
  }
  row.cost_nanousd = CostOf(parts.of->machine->price, row.result->elapsed_ns);
  const int64_t duration_ns = question.traffic.duration_ns;
  const int64_t late_ns = row.result->elapsed_ns / simulated - duration_ns;
  row.keeps_up = row.result->refused == 0 &&
                 (duration_ns == 0 ||
                  late_ns <= std::max(kLateNs, static_cast<int64_t>(kLateShare * duration_ns)));
  const PlanGoals& goals = question.goals;
  row.meets_goals = row.keeps_up &&
                    (goals.ttft_p95_ns == 0 || row.ttft_ns(0.95) <= goals.ttft_p95_ns) &&
                    (goals.itl_p95_ns == 0 || row.itl_ns(0.95) <= goals.itl_p95_ns);
  return row;
}

// Fewer replicas could not even do the arithmetic, which no batch makes less.
int32_t ReplicasAtLeast(const Traffic& traffic, const StepCostCoefficients& costs) {
  if (traffic.duration_ns == 0) return 1;
  double busy_ns = 0;
  for (const Arrival& arrival : traffic.arrivals) {
    const double prompt = arrival.prompt_tokens;
    const double completion = arrival.completion_tokens;
    busy_ns += costs.token_ns * (prompt + completion - 1) +
               costs.attention_ns * (prompt + completion) * (prompt + completion) / 2;
  }
  const double late = std::max(kLateShare, static_cast<double>(kLateNs) / traffic.duration_ns);
  return std::max(1, static_cast<int32_t>(busy_ns / (traffic.duration_ns * (1 + late))));
}

void FindCapacity(const PlanQuestion& question, const PlanMachine& machine, MachinePlan* plan) {
  const std::vector<Arrival>& arrivals = question.traffic.arrivals;
  const int32_t callers = machine.engine.sequences_max;
  std::vector<Arrival> load;
  for (int64_t i = 0; i < kRoundsOfPlaces * callers; ++i) {
    load.push_back(arrivals[i % arrivals.size()]);
  }
  auto result = std::make_unique<ReplicaResult>();
  AdmissionLimits unlimited;
  unlimited.prompt_tokens_max = unlimited.tenant_prompt_tokens_max = int64_t{1} << 40;
  unlimited.requests_max = unlimited.tenant_requests_max = callers;
  Replica({.engine = machine.engine, .admission = unlimited, .callers = callers})
      .Run(load, 0, 1, 0, result.get());
  const double seconds = 1e-9 * result->elapsed_ns;
  if (result->requests == 0) return;
  plan->capacity_requests_per_second = result->requests / seconds;
  plan->capacity_tokens_per_second = (result->prompt_tokens + result->completion_tokens) / seconds;
  plan->capacity_calls = plan->capacity_requests_per_second * 3600 * kMonthHours;
}

// What one replica can do, and from when on it is worth its hours.
MachinePlan BeginPlan(const PlanQuestion& question, const PlanMachine& machine,
                      double api_usd_per_call) {
  MachinePlan plan;
  if (!machine.fits.ok()) return plan;
  FindCapacity(question, machine, &plan);
  if (api_usd_per_call > 0 && machine.price.known()) {
    plan.break_even_calls =
        Usd(CostOf(machine.price, std::llround(kNsPerHour * kMonthHours))) / api_usd_per_call;
  }
  return plan;
}

// Round by round, each the next rows of all machines, so that what is tried follows from results
// alone and not from which thread was first.
void Search(const PlanQuestion& question, bool first_alone, std::vector<MachineSearch>* machines) {
  while (true) {
    std::vector<RowParts*> rows;
    for (MachineSearch& machine : *machines) {
      for (const int32_t replicas : machine.search.Next()) {
        RowParts& row = machine.rows[replicas];
        row.of = &machine;
        row.replicas = replicas;
        rows.push_back(&row);
      }
    }
    if (rows.empty()) return;
    SimulateRows(question, first_alone, rows);
    for (const RowParts* row : rows) {
      row->of->search.Learn(row->replicas, MakeRow(question, *row).meets_goals);
    }
  }
}

// The replicas of a row are much alike, so that the first of each says how many are enough, all but
// sure, at a part of the work. Then whole rows, from that number on.
void FindRows(const PlanQuestion& question, Plan* plan) {
  std::vector<MachineSearch> machines;
  std::vector<MachinePlan*> plans;
  const int32_t last = question.replicas_max;
  for (size_t i = 0; i < question.machines.size(); ++i) {
    const PlanMachine& machine = question.machines[i];
    if (!machine.fits.ok()) continue;
    const int32_t first = std::clamp(ReplicasAtLeast(question.traffic, machine.engine.cost),
                                     question.replicas_min, last);
    machines.push_back({&machine, ReplicaSearch(first, last, first + (last - first) / 2), {}});
    plans.push_back(&plan->machines[i]);
  }
  Search(question, /*first_alone=*/true, &machines);
  for (MachineSearch& machine : machines) machine.search.StartAgain();
  Search(question, /*first_alone=*/false, &machines);
  for (size_t i = 0; i < machines.size(); ++i) {
    std::vector<PlanRow>& rows = plans[i]->rows;
    for (const auto& [replicas, parts] : machines[i].rows) {
      if (!machines[i].search.tried(replicas)) continue;  // but for its first
      rows.push_back(MakeRow(question, parts));
      if (plans[i]->cheapest >= 0 || !rows.back().meets_goals) continue;
      plans[i]->cheapest = static_cast<int>(rows.size()) - 1;
    }
  }
}

void FindApiPrice(const PlanQuestion& question, Plan* plan) {
  const Traffic& traffic = question.traffic;
  const std::optional<ApiInvoice>& invoice = question.invoice;
  plan->calls = static_cast<int64_t>(traffic.arrivals.size());
  double calls_planned = plan->calls;
  if (invoice.has_value()) {
    plan->days = invoice->days;
    plan->calls = invoice->total.requests;
  }
  if (invoice.has_value() && invoice->amount_nanousd.has_value()) {
    plan->api = "the invoice";
    plan->api_nanousd = *invoice->amount_nanousd;
  } else if (question.reference.has_value()) {
    const int64_t nanousd =
        question.reference->NanoUsd(traffic.prompt_tokens, 0, traffic.completion_tokens);
    plan->api = question.reference->id();
    plan->api_nanousd = std::llround(nanousd / calls_planned * plan->calls);
  }
}

}  // namespace

double PlanRow::idle_share() const {
  return static_cast<double>(result->accounts.idle_ns) /
         static_cast<double>(std::max<int64_t>(1, result->elapsed_ns));
}

double PlanRow::tokens_per_second() const {
  return (result->prompt_tokens + result->completion_tokens) / std::max(1e-9, seconds());
}

double PlanRow::usd_per_request() const {
  return Usd(cost_nanousd) / std::max<int64_t>(1, result->requests);
}

double PlanRow::usd_per_million_tokens() const {
  return 1e6 * Usd(cost_nanousd) /
         std::max<int64_t>(1, result->prompt_tokens + result->completion_tokens);
}

int64_t PlanRow::ttft_ns(double quantile) const {
  return std::llround(1e9 * result->time_to_first_token.Quantile(quantile));
}

int64_t PlanRow::itl_ns(double quantile) const {
  return std::llround(1e9 * result->inter_token.Quantile(quantile));
}

double MachinePlan::UsdPerAnswer(const RateCard& price, double used) const {
  return 1e-6 * price.micro_usd_per_hour / (3600 * capacity_requests_per_second * used);
}

int64_t Plan::machines_nanousd() const {
  const MachinePlan& machine = machines[cheapest];
  return std::llround(days * machine.rows[machine.cheapest].cost_nanousd);
}

bool Plan::stay_on_api() const {
  return api_nanousd >= 0 && (cheapest < 0 || machines_nanousd() >= api_nanousd);
}

Plan MakePlan(const PlanQuestion& question) {
  Plan plan;
  FindApiPrice(question, &plan);
  plan.machines.resize(question.machines.size());
  ForEach(plan.machines.size(), question.threads, [&](size_t i) {
    plan.machines[i] = BeginPlan(question, question.machines[i], plan.api_usd_per_call());
  });
  FindRows(question, &plan);
  int64_t least = 0;
  for (size_t i = 0; i < plan.machines.size(); ++i) {
    const MachinePlan& machine = plan.machines[i];
    if (machine.cheapest < 0) continue;
    const int64_t cost = machine.rows[machine.cheapest].cost_nanousd;
    if (cost < 0 || (plan.cheapest >= 0 && cost >= least)) continue;
    plan.cheapest = static_cast<int>(i);
    least = cost;
  }
  return plan;
}

}  // namespace tuppence
