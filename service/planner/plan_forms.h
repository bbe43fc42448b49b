// A plan on paper: a table for people, JSON for programs, a plot of cost against latency as SVG.
#pragma once

#include <string>

#include "service/planner/plan.h"

namespace tuppence {

std::string FormatPlanTable(const PlanQuestion& question, const Plan& plan);

std::string FormatPlanJson(const PlanQuestion& question, const Plan& plan);

// USD for 1,000 answers against the p95 of the time to the first token, a line for each machine and
// a point for each number of replicas that keeps up; the goal and the API's price are lines of
// their own.
std::string FormatPlanSvg(const PlanQuestion& question, const Plan& plan);

}  // namespace tuppence
