// Whole steps of a model on a GPU, timed: Phi-3-mini's shape with weights that mean nothing,
// through the same layers, cache and sampling as the service's. Used by gpu_bench alone.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "model/backend.h"
#include "model/config.h"

namespace tuppence {

struct StepSizes {
  std::string model = "synthetic:phi-3-mini-4k";
  std::vector<int32_t> batches = {1, 8, 32, 128};
  int32_t context = 1024;
  int32_t prompt = 512;  // of one prefill step
  double seconds = 0.5;  // of each measurement
};
StepSizes TinyStepSizes();  // for the emulated GPU

// Decode steps of each batch size and a prefill step, for each weight format and both KV types that
// go with `half`. A setting that the memory does not hold is printed with the reason.
void MeasureSteps(Backend& backend, DType half, const StepSizes& sizes);

// What a call took, and the least it has to move and compute.
struct Measured {
  double seconds = 0;
  double bytes = 0;
  double flop = 0;
};
// One line: the labels, then the numbers.
void PrintMeasured(const std::vector<std::pair<std::string, std::string>>& labels,
                   const Measured& measured);

// Seconds of one call, over at least so many seconds of them; call(i) is the i-th, `wait` waits for
// all. Dies with the reason where the device fails.
double SecondsOf(double seconds_min, const std::function<void(int)>& call,
                 const std::function<absl::Status()>& wait);

}  // namespace tuppence
