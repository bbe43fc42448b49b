#include "scheduler/step_cost_fit.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "model/check.h"

namespace tuppence {
namespace {

constexpr int kWeights = 1;  // W among the unknowns; h is 0
constexpr double kForget = 1.0 / 256;
constexpr int32_t kStepsPerFit = 16;
// A measured step is good to about 5 %, the prior to about half of itself: so much of a step is it
// worth.
constexpr double kPriorWeight = 0.01;
// Beyond this relative error a step counts by its distance and not its square: one that waited for
// another process must not move the fit.
constexpr double kErrorUsual = 0.3;
constexpr double kStepsAboveMin = 3;  // before W is refined

}  // namespace

StepCostCoefficients StepCostPrior(const ModelSizes& sizes) {
  constexpr double kBytesPerNs = 20;
  constexpr double kFlopsPerNs = 200;
  StepCostCoefficients cost;
  cost.weights_ns = static_cast<double>(sizes.weight_bytes) / kBytesPerNs;
  cost.token_ns = 2 * static_cast<double>(sizes.parameters) / kFlopsPerNs;
  cost.attention_ns = 4 * static_cast<double>(sizes.attention_cols) / kFlopsPerNs;
  cost.kv_read_ns = static_cast<double>(sizes.kv_bytes_per_token) / kBytesPerNs;
  return cost;
}

StepCostFit::StepCostFit(const StepCostCoefficients& prior) { SetPrior(prior); }

void StepCostFit::SetPrior(const StepCostCoefficients& prior) {
  coefficients_ = prior;
  // Launching is the least known: what W is wrong by must be able to show there. (Where kernels
  // slow down row by row from the first row on, as int8 on two cores does, most of it is h.)
  const double launch_scale_ns = std::max(prior.launch_ns, prior.weights_ns / 2);
  scale_ = {launch_scale_ns, prior.weights_ns, prior.token_ns, prior.attention_ns,
            prior.kv_read_ns};
  prior_.fill(1);
  if (launch_scale_ns > 0) prior_[0] = prior.launch_ns / launch_scale_ns;
  unknowns_ = prior_;
  below_ = above_ = Side();
  added_ = 0;
}

void StepCostFit::Calibrate(std::span<const MeasuredStep> steps) {
  if (steps.empty()) return;
  const auto fewer = [](const MeasuredStep& a, const MeasuredStep& b) {
    return a.work.tokens < b.work.tokens;
  };
  const auto [least, most] = std::minmax_element(steps.begin(), steps.end(), fewer);
  StepCostCoefficients prior = coefficients_;
  // The smallest step is reading, the largest arithmetic.
  const double reading_ns =
      prior.weights_ns + prior.kv_read_ns * static_cast<double>(least->work.kv_read_tokens);
  if (reading_ns > 0) {
    const double slower = least->measured_ns / reading_ns;
    prior.weights_ns *= slower;
    prior.kv_read_ns *= slower;
  }
  const double arithmetic_ns = prior.token_ns * static_cast<double>(most->work.tokens) +
                               prior.attention_ns * static_cast<double>(most->work.query_keys);
  if (arithmetic_ns > 0 && most->work.tokens > least->work.tokens) {
    const double slower = most->measured_ns / arithmetic_ns;
    prior.token_ns *= slower;
    prior.attention_ns *= slower;
  }
  // Launching is a small part of the smallest step, or else it could pass for W.
  prior.launch_ns = std::min(prior.launch_ns, least->measured_ns / 20);
  SetPrior(prior);
  // Sides follow from the fit and the fit from the sides: a few rounds settle both.
  std::vector<bool> sides;
  for (int round = 0; round < 12; ++round) {
    std::vector<bool> now;
    for (const MeasuredStep& step : steps) now.push_back(ArithmeticBound(step.work));
    if (now == sides) return;
    sides = now;
    below_ = above_ = Side();
    for (const MeasuredStep& step : steps) AddTo(step.work, step.measured_ns, 1);
    Solve(2000);
  }
}

void StepCostFit::Add(const StepWork& work, double measured_ns) {
  if (measured_ns <= 0) return;
  AddTo(work, measured_ns, 1 - kForget);
  ++added_;
}

bool StepCostFit::Refine() {
  if (added_ < kStepsPerFit) return false;
  added_ = 0;
  const StepCostCoefficients before = coefficients_;
  Solve(20);
  return !(before == coefficients_);
}

bool StepCostFit::ArithmeticBound(const StepWork& work) const {
  return StepCostModel(coefficients_, 0).ArithmeticBound(work);
}

// A row of the relative error: sum of row[k] * unknowns[k] is modelled / measured, wanted is 1.
void StepCostFit::AddTo(const StepWork& work, double measured_ns, double keep) {
  const bool above = ArithmeticBound(work);
  const double tokens = static_cast<double>(work.tokens);
  const double query_keys = static_cast<double>(work.query_keys);
  const double kv_tokens = static_cast<double>(work.kv_read_tokens);
  Vector row =
      above ? Vector{1, 0, tokens, query_keys, kv_tokens} : Vector{1, 1, 0, query_keys, kv_tokens};
  double modelled = 0;
  for (int k = 0; k < kUnknowns; ++k) {
    row[k] *= scale_[k] / measured_ns;
    modelled += row[k] * unknowns_[k];
  }
  const double weight = std::min(1.0, kErrorUsual / std::max(1e-9, std::abs(modelled - 1)));
  Side& side = above ? above_ : below_;
  side.steps = side.steps * keep + 1;
  for (int k = 0; k < kUnknowns; ++k) {
    side.right[k] = side.right[k] * keep + weight * row[k];
    for (int j = 0; j < kUnknowns; ++j) {
      side.normal[k][j] = side.normal[k][j] * keep + weight * row[k] * row[j];
    }
  }
}

void StepCostFit::Solve(int sweeps) {
  const bool weights_free = above_.steps >= kStepsAboveMin;
  Descend(sweeps, weights_free);
  // Steps shorter than W alone: then it is W that is too long, whatever else is unknown.
  if (!weights_free && unknowns_[0] <= 0) Descend(sweeps, /*weights_free=*/true);
  const auto at = [this](int k) { return unknowns_[k] * scale_[k]; };
  coefficients_ = {.launch_ns = at(0),
                   .weights_ns = at(1),
                   .token_ns = at(2),
                   .attention_ns = at(3),
                   .kv_read_ns = at(4)};
}

// Coordinate descent: each unknown in turn to its best value that is not negative. The problem is
// convex, so that it ends at the one minimum.
void StepCostFit::Descend(int sweeps, bool weights_free) {
  for (int sweep = 0; sweep < sweeps; ++sweep) {
    double moved = 0;
    for (int k = 0; k < kUnknowns; ++k) {
      if (k == kWeights && !weights_free) continue;
      double right = below_.right[k] + above_.right[k] + kPriorWeight * prior_[k];
      for (int j = 0; j < kUnknowns; ++j) {
        if (j != k) right -= (below_.normal[k][j] + above_.normal[k][j]) * unknowns_[j];
      }
      const double normal = below_.normal[k][k] + above_.normal[k][k] + kPriorWeight;
      const double value = std::max(0.0, right / normal);
      moved = std::max(moved, std::abs(value - unknowns_[k]));
      unknowns_[k] = value;
    }
    if (moved < 1e-9) return;
  }
}

void RecentErrors::Add(double measured_ns, double modelled_ns) {
  if (measured_ns <= 0) return;
  const double error = std::abs(measured_ns - modelled_ns) / measured_ns;
  errors_[count_++ % kKept] = static_cast<float>(error);
}

double RecentErrors::Quantile(double part) const {
  const int64_t kept = std::min<int64_t>(count_, kKept);
  if (kept == 0) return 0;
  std::array<float, kKept> sorted = errors_;
  const auto at = sorted.begin() + static_cast<int64_t>(part * static_cast<double>(kept - 1));
  std::nth_element(sorted.begin(), at, sorted.begin() + kept);
  return *at;
}

}  // namespace tuppence
