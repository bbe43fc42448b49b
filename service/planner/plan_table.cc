// The table for people: see plan_forms.h.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "service/planner/plan_forms.h"
#include "service/text_table.h"

namespace tuppence {
namespace {

std::string Percent(double part) { return absl::StrFormat("%.0f %%", 100 * part); }

// Three digits that count.
std::string Figure(double value) {
  if (value == 0) return "0";
  const int decimals = std::clamp(2 - static_cast<int>(std::floor(std::log10(value))), 0, 9);
  return absl::StrFormat("%.*f", decimals, value);
}

std::string Whole(double value) { return WithCommas(std::llround(value)); }

std::string SecondsText(int64_t ns) { return absl::StrFormat("%.3g s", 1e-9 * ns); }

std::string MillisecondsText(int64_t ns) { return absl::StrFormat("%.3g ms", 1e-6 * ns); }

std::string Verdict(const PlanQuestion& question, const PlanRow& row) {
  if (row.result->refused > 0) {
    return absl::StrCat("refuses ", WithCommas(row.result->refused));
  }
  if (!row.keeps_up) return "does not keep up";
  if (question.goals.ttft_p95_ns > 0 && row.ttft_ns(0.95) > question.goals.ttft_p95_ns) {
    return "first token too late";
  }
  if (question.goals.itl_p95_ns > 0 && row.itl_ns(0.95) > question.goals.itl_p95_ns) {
    return "tokens too slow";
  }
  return "meets";
}

void AddRow(const PlanQuestion& question, const PlanMachine& machine, const MachinePlan& plan,
            const PlanRow& row, TextTable* table) {
  const bool first = &row == &plan.rows.front();
  const bool priced = row.cost_nanousd >= 0;
  table->Row({first ? absl::StrCat(machine.name, machine.assumed ? " *" : "") : "",
              absl::StrCat(row.replicas), Figure(1e-9 * row.ttft_ns(0.5)),
              Figure(1e-9 * row.ttft_ns(0.95)), Figure(1e-6 * row.itl_ns(0.5)),
              Figure(1e-6 * row.itl_ns(0.95)), Whole(row.tokens_per_second()),
              Percent(row.tokens_per_second() /
                      (row.replicas * std::max(1e-9, plan.capacity_tokens_per_second))),
              Percent(row.idle_share()),
              priced ? Figure(1e-6 * machine.price.micro_usd_per_hour * row.replicas) : "-",
              priced ? Figure(1e3 * row.usd_per_request()) : "-",
              priced ? Figure(row.usd_per_million_tokens()) : "-", Verdict(question, row)});
}

std::string RowsText(const PlanQuestion& question, const Plan& plan) {
  TextTable table;
  table.Column("machine");
  for (const char* heading : {"replicas", "TTFT p50 s", "p95 s", "ITL p50 ms", "p95 ms", "tokens/s",
                              "used", "idle", "USD/h", "USD/1,000", "USD/M tokens"}) {
    table.Column(heading, /*right=*/true);
  }
  table.Column("");
  for (size_t i = 0; i < plan.machines.size(); ++i) {
    for (const PlanRow& row : plan.machines[i].rows) {
      AddRow(question, question.machines[i], plan.machines[i], row, &table);
    }
  }
  return table.Format();
}

std::string BreakEvenText(const MachinePlan& plan) {
  if (plan.break_even_calls <= 0) return "-";
  if (plan.break_even_calls > plan.capacity_calls) return "never: more than it can serve";
  return absl::StrCat(Whole(plan.break_even_calls), ", ",
                      Percent(plan.break_even_calls / plan.capacity_calls), " used");
}

std::string AnswersText(const PlanQuestion& question, const Plan& plan) {
  TextTable table;
  table.Column("one replica");
  for (const char* heading : {"calls a month at most", "USD/1,000 10 % used", "30 %", "100 %",
                              "break-even calls a month"}) {
    table.Column(heading, /*right=*/true);
  }
  for (size_t i = 0; i < plan.machines.size(); ++i) {
    const MachinePlan& machine = plan.machines[i];
    const RateCard& price = question.machines[i].price;
    if (machine.capacity_calls == 0 || !price.known()) continue;
    const auto thousand = [&](double used) {
      return Figure(1e3 * machine.UsdPerAnswer(price, used));
    };
    table.Row({question.machines[i].name, Whole(machine.capacity_calls), thousand(0.1),
               thousand(0.3), thousand(1), BreakEvenText(machine)});
  }
  return table.Format();
}

std::string GoalsText(const PlanGoals& goals) {
  if (goals.ttft_p95_ns == 0 && goals.itl_p95_ns == 0) return "keep up with the traffic";
  std::string text;
  if (goals.ttft_p95_ns > 0) {
    absl::StrAppend(&text, "first token p95 within ", SecondsText(goals.ttft_p95_ns));
  }
  if (goals.itl_p95_ns > 0) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", "between tokens p95 within ",
                    MillisecondsText(goals.itl_p95_ns));
  }
  return text;
}

std::string ApiText(const Plan& plan) {
  if (plan.api_nanousd < 0) return "";
  return absl::StrFormat("The API (%s) asks %s USD for %s calls, %s for 1,000.\n", plan.api,
                         Figure(1e-9 * plan.api_nanousd), WithCommas(plan.calls),
                         Figure(1e3 * plan.api_usd_per_call()));
}

std::string CheapestText(const PlanQuestion& question, const Plan& plan) {
  const bool compared = plan.api_nanousd >= 0;
  if (plan.cheapest < 0) {
    return absl::StrCat("No machine with a price meets the goals.",
                        compared ? " Stay on the API.\n" : "\n");
  }
  const MachinePlan& machine = plan.machines[plan.cheapest];
  const PlanRow& row = machine.rows[machine.cheapest];
  std::string text =
      absl::StrFormat("Cheapest that meets the goals: %d x %s, %s USD for %.3g h.\n", row.replicas,
                      question.machines[plan.cheapest].name, Figure(1e-9 * plan.machines_nanousd()),
                      plan.days * row.seconds() / 3600);
  if (!compared) return text;
  const double saved_usd = 1e-9 * (plan.api_nanousd - plan.machines_nanousd());
  absl::StrAppendFormat(&text,
                        plan.stay_on_api() ? "Stay on the API: it is cheaper by %s USD.\n"
                                           : "Cheaper than the API by %s USD.\n",
                        Figure(std::abs(saved_usd)));
  return text;
}

// What each machine is; and once for all whom it concerns where its speed comes from.
std::string NotesText(const PlanQuestion& question) {
  std::string text;
  std::string said;
  for (const PlanMachine& machine : question.machines) {
    if (machine.fits.ok() && machine.basis != said) {
      said = machine.basis;
      absl::StrAppend(&text, machine.assumed ? "* " : "", said, "\n");
    }
    absl::StrAppend(&text, "  ", machine.name, ": ", machine.what, "; ",
                    machine.price.known() ? machine.price.id : "no price");
    if (machine.fits.ok()) {
      absl::StrAppend(&text, "; keys and values of ",
                      Whole(int64_t{machine.engine.blocks} * machine.engine.block_tokens),
                      " tokens\n");
    } else {
      absl::StrAppend(&text, "\n    does not fit: ", std::string(machine.fits.message()), "\n");
    }
  }
  return text;
}

}  // namespace

std::string FormatPlanTable(const PlanQuestion& question, const Plan& plan) {
  return absl::StrCat(
      "Traffic: ", question.traffic.source, "; ", Whole(question.traffic.arrivals.size()),
      " requests, ", Whole(question.traffic.prompt_tokens), " tokens in, ",
      Whole(question.traffic.completion_tokens), " out\nModel: ", question.model,
      "\nGoals: ", GoalsText(question.goals), "\n\n", RowsText(question, plan), "\n", ApiText(plan),
      CheapestText(question, plan), "\n", AnswersText(question, plan), "\n", NotesText(question));
}

}  // namespace tuppence
