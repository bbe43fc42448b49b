#include "scheduler/step_cost_model.h"

#include <algorithm>

#include "model/check.h"

namespace tuppence {
namespace {

struct OwnTimes {
  double arithmetic_ns = 0;  // c
  double kv_ns = 0;          // m
};

OwnTimes TimesOf(const StepCostCoefficients& coefficients, const StepWork& work) {
  return {.arithmetic_ns = coefficients.token_ns * static_cast<double>(work.tokens) +
                           coefficients.attention_ns * static_cast<double>(work.query_keys),
          .kv_ns = coefficients.kv_read_ns * static_cast<double>(work.kv_read_tokens)};
}

}  // namespace

void StepCostModel::Divide(std::span<const StepWork> works, std::span<StepShare> shares) const {
  CHECK(!works.empty());
  CHECK_EQ(works.size(), shares.size());
  double surplus = -coefficients_.weights_ns;  // D - W
  double positive = 0;                         // sum of the positive d
  for (const StepWork& work : works) {
    const OwnTimes times = TimesOf(coefficients_, work);
    const double d = times.arithmetic_ns - times.kv_ns;
    surplus += d;
    positive += std::max(0.0, d);
  }
  // What the arithmetic takes beyond reading the weights goes to those who made it, by their
  // arithmetic: the Aumann-Shapley split along the diagonal, which is within 5 % of the exact one.
  const double per_d = surplus > 0 ? surplus / positive : 0;
  const double shared_ns =
      (coefficients_.launch_ns + coefficients_.weights_ns) / static_cast<double>(works.size());
  for (size_t i = 0; i < works.size(); ++i) {
    const OwnTimes times = TimesOf(coefficients_, works[i]);
    const double d = std::max(0.0, times.arithmetic_ns - times.kv_ns);
    shares[i] = {.shared_ns = shared_ns, .own_ns = times.kv_ns + d * per_d};
  }
}

double StepCostModel::OwnNs(const StepWork& work) const {
  const OwnTimes times = TimesOf(coefficients_, work);
  return times.arithmetic_ns + times.kv_ns;
}

}  // namespace tuppence
