// StepCostFit: the step-cost model's coefficients, from measured steps. Starts from a prior made of
// the model's sizes, is calibrated at start-up with steps of known shape, and follows the machine
// from then on. Used by the engine, which takes new coefficients between steps only.
// Thread: engine only. Allocates nothing but in Calibrate.
//
// Non-negative least squares on relative errors, with the prior as a weak measurement of its own
// (plain fits on 40 noisy decode steps gave a negative coefficient in half of all runs). Each step
// lies on the side of the roof where the current model puts it: below, t = h + W + M; above,
// t = h + C. Steps below cannot tell h and W apart, so that W moves only once some lie above.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "scheduler/step_cost_model.h"

namespace tuppence {

// What the prior is made of.
struct ModelSizes {
  int64_t weight_bytes = 0;  // read by each step, as the backend keeps them
  int64_t parameters = 0;
  int64_t attention_cols = 0;  // heads x head_dim, all layers together
  int64_t kv_bytes_per_token = 0;
};

// The coefficients of this model on a usual server CPU, 20 GB/s and 0.2 TFLOPS: right in their
// ratios within each resource, which is what Calibrate builds on.
StepCostCoefficients StepCostPrior(const ModelSizes& sizes);

struct MeasuredStep {
  StepWork work;  // of all players
  double measured_ns = 0;
};

class StepCostFit {
 public:
  explicit StepCostFit(const StepCostCoefficients& prior);

  // Sets bandwidth and arithmetic rate of the prior to what these steps show, then fits. Forgets
  // everything before.
  void Calibrate(std::span<const MeasuredStep> steps);
  // One more step. Each side of the roof forgets its own past, about 256 steps back.
  void Add(const StepWork& work, double measured_ns);
  // Fits anew every few steps. True when the coefficients changed.
  bool Refine();

  const StepCostCoefficients& coefficients() const { return coefficients_; }

 private:
  static constexpr int kUnknowns = 5;  // h, W, token, attention, KV read
  using Vector = std::array<double, kUnknowns>;

  // The normal equations of one side's steps, in units of scale_.
  struct Side {
    std::array<Vector, kUnknowns> normal = {};
    Vector right = {};
    double steps = 0;  // remembered
  };

  void SetPrior(const StepCostCoefficients& prior);
  void AddTo(const StepWork& work, double measured_ns, double keep);
  bool ArithmeticBound(const StepWork& work) const;
  void Solve(int sweeps);
  void Descend(int sweeps, bool weights_free);

  Vector scale_ = {};  // what is a usual size; the unknowns are multiples of it
  Vector prior_ = {};  // 1 but for h
  Vector unknowns_ = {};
  Side below_;  // W + M is longer than C
  Side above_;
  int32_t added_ = 0;  // since the last fit
  StepCostCoefficients coefficients_;
};

// |measured - modelled| / measured of the last steps.
class RecentErrors {
 public:
  void Add(double measured_ns, double modelled_ns);
  // The error that `part` of the steps do not exceed; 0 before the first step. Sorts: not for every
  // step.
  double Quantile(double part) const;

 private:
  static constexpr int32_t kKept = 512;
  std::array<float, kKept> errors_ = {};
  int64_t count_ = 0;
};

}  // namespace tuppence
