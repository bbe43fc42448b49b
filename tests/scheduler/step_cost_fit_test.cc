#include "scheduler/step_cost_fit.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace tuppence {
namespace {

constexpr StepCostCoefficients kTrue = {.launch_ns = 300'000,
                                        .weights_ns = 80'000'000,
                                        .token_ns = 2'500'000,
                                        .attention_ns = 400,
                                        .kv_read_ns = 9'000};
// What the sizes alone suggest: everything off by a factor.
constexpr StepCostCoefficients kPrior = {.launch_ns = 50'000,
                                         .weights_ns = 200'000'000,
                                         .token_ns = 20'000'000,
                                         .attention_ns = 4'000,
                                         .kv_read_ns = 20'000};

StepWork Decodes(int count, int64_t position) {
  StepWork work;
  for (int i = 0; i < count; ++i) work.Add(WorkOf(position, position + 1, Phase::kDecode));
  return work;
}

class Machine {
 public:
  Machine(const StepCostCoefficients& truth, double noise) : model_(truth, 0), noise_(noise) {}

  MeasuredStep Run(const StepWork& work) {
    const double factor = std::exp(noise_ * normal_(random_));
    return {work, model_.StepNs(work) * factor};
  }
  StepWork Mixed() {
    StepWork work = Decodes(1 + random_() % 20, random_() % 2000);
    if (random_() % 3 == 0) work.Add(WorkOf(0, 16 + random_() % 200, Phase::kPrefill));
    return work;
  }
  double ErrorOf(const StepCostCoefficients& coefficients, const StepWork& work) const {
    const double truth = model_.StepNs(work);
    return std::abs(StepCostModel(coefficients, 0).StepNs(work) - truth) / truth;
  }

 private:
  const StepCostModel model_;
  const double noise_;
  std::mt19937_64 random_{4};
  std::normal_distribution<double> normal_;
};

std::vector<MeasuredStep> StartUp(Machine& machine) {
  std::vector<MeasuredStep> steps;
  for (const StepWork& work :
       {Decodes(1, 31), WorkOf(0, 16, Phase::kPrefill), Decodes(4, 31),
        WorkOf(0, 64, Phase::kPrefill), Decodes(1, 1023), WorkOf(0, 256, Phase::kPrefill)}) {
    steps.push_back(machine.Run(work));
  }
  return steps;
}

void ExpectNothingNegative(const StepCostCoefficients& c) {
  for (const double value : {c.launch_ns, c.weights_ns, c.token_ns, c.attention_ns, c.kv_read_ns}) {
    EXPECT_GE(value, 0);
    EXPECT_TRUE(std::isfinite(value));
  }
}

TEST(StepCostFitTest, AFewStepsAtStartUpSetTheRates) {
  Machine machine(kTrue, 0.02);
  StepCostFit fit(kPrior);
  fit.Calibrate(StartUp(machine));
  ExpectNothingNegative(fit.coefficients());
  for (int i = 0; i < 200; ++i) {
    EXPECT_LT(machine.ErrorOf(fit.coefficients(), machine.Mixed()), 0.15);
  }
}

TEST(StepCostFitTest, StepsRefineIt) {
  Machine machine(kTrue, 0.05);
  StepCostFit fit(kPrior);
  fit.Calibrate(StartUp(machine));
  for (int i = 0; i < 2'000; ++i) {
    const MeasuredStep step = machine.Run(machine.Mixed());
    fit.Add(step.work, step.measured_ns);
    fit.Refine();
    ExpectNothingNegative(fit.coefficients());
  }
  double worst = 0;
  for (int i = 0; i < 200; ++i) {
    worst = std::max(worst, machine.ErrorOf(fit.coefficients(), machine.Mixed()));
  }
  EXPECT_LT(worst, 0.05);
}

TEST(StepCostFitTest, ChangesOnlyWhenAskedAndOnlyEveryFewSteps) {
  Machine machine(kTrue, 0.05);
  StepCostFit fit(kPrior);
  int changes = 0;
  for (int i = 0; i < 160; ++i) {
    const StepCostCoefficients before = fit.coefficients();
    const MeasuredStep step = machine.Run(machine.Mixed());
    fit.Add(step.work, step.measured_ns);
    EXPECT_EQ(fit.coefficients(), before);
    changes += fit.Refine();
  }
  EXPECT_GT(changes, 0);
  EXPECT_LE(changes, 10);
}

TEST(StepCostFitTest, DecodeStepsAloneLeaveTheWeightsAlone) {
  StepCostCoefficients truth = kTrue;
  truth.launch_ns = 20'000'000;  // a slower host
  Machine machine(truth, 0.03);
  StepCostFit fit(kTrue);
  for (int i = 0; i < 1'000; ++i) {
    const MeasuredStep step = machine.Run(Decodes(1 + i % 8, 100 + i));
    fit.Add(step.work, step.measured_ns);
    fit.Refine();
  }
  EXPECT_EQ(fit.coefficients().weights_ns, kTrue.weights_ns);
  EXPECT_GT(fit.coefficients().launch_ns, 10'000'000);
  EXPECT_LT(machine.ErrorOf(fit.coefficients(), Decodes(4, 500)), 0.03);
}

TEST(StepCostFitTest, StepsShorterThanTheWeightsBringThemDown) {
  StepCostCoefficients truth = kTrue;
  truth.weights_ns /= 50;
  truth.token_ns /= 50;
  Machine machine(truth, 0.03);
  StepCostFit fit(kTrue);
  for (int i = 0; i < 2'000; ++i) {
    const MeasuredStep step = machine.Run(Decodes(1, 100));
    fit.Add(step.work, step.measured_ns);
    fit.Refine();
  }
  EXPECT_LT(machine.ErrorOf(fit.coefficients(), Decodes(1, 100)), 0.05);
}

TEST(StepCostFitTest, AStepThatWaitedForAnotherProcessMovesLittle) {
  Machine machine(kTrue, 0.01);
  StepCostFit fit(kTrue);
  for (int i = 0; i < 400; ++i) {
    MeasuredStep step = machine.Run(machine.Mixed());
    if (i % 50 == 49) step.measured_ns *= 20;
    fit.Add(step.work, step.measured_ns);
    fit.Refine();
  }
  EXPECT_LT(machine.ErrorOf(fit.coefficients(), Decodes(8, 500)), 0.05);
}

TEST(StepCostFitTest, FollowsAMachineThatBecomesSlower) {
  StepCostCoefficients slow = kTrue;
  slow.weights_ns *= 1.5;
  slow.token_ns *= 1.5;
  Machine machine(slow, 0.02);
  StepCostFit fit(kTrue);
  for (int i = 0; i < 3'000; ++i) {
    const MeasuredStep step = machine.Run(machine.Mixed());
    fit.Add(step.work, step.measured_ns);
    fit.Refine();
  }
  for (int i = 0; i < 100; ++i) {
    EXPECT_LT(machine.ErrorOf(fit.coefficients(), machine.Mixed()), 0.08);
  }
}

TEST(StepCostFitTest, StepsThatTookNoTimeAreLeftOut) {
  StepCostFit fit(kPrior);
  for (int i = 0; i < 100; ++i) fit.Add(Decodes(1, 5), 0);
  EXPECT_FALSE(fit.Refine());
  EXPECT_EQ(fit.coefficients(), kPrior);
  fit.Calibrate({});
  EXPECT_EQ(fit.coefficients(), kPrior);
}

TEST(RecentErrorsTest, QuantilesAreOfTheLast512Steps) {
  RecentErrors errors;
  EXPECT_EQ(errors.Quantile(0.5), 0);
  for (int i = 0; i < 1'000; ++i) errors.Add(1'000, 5'000);
  for (int i = 0; i < 512; ++i) errors.Add(1'000, 1'000 + i % 101);
  EXPECT_NEAR(errors.Quantile(0.5), 0.050, 0.002);
  EXPECT_NEAR(errors.Quantile(0.95), 0.095, 0.002);
  EXPECT_NEAR(errors.Quantile(1), 0.1, 1e-6);
}

}  // namespace
}  // namespace tuppence
