// MachineSpeeds: what machines can do and what our kernels reach of it, so that the planner knows
// how long a step takes on one that nobody has rented yet. The table is deploy/machine_speeds.json,
// --machines FILE takes its place. Prices are those of deploy/machine_prices.json, by name.
//
// A fraction is either measured, by a run that bench/results/ records, or assumed: then it is a
// range between what others have published and what our kernels have reached on another device,
// and every figure made with it says so.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "scheduler/rate_card.h"
#include "scheduler/step_cost_fit.h"

namespace tuppence {

// A part of a peak, above 0 and at most 1. Measured: low and high are alike.
struct Fraction {
  double low = 0;
  double high = 0;
};

// Which end of assumed ranges is planned with.
enum class Assume : uint8_t { kLow, kMiddle, kHigh };

struct MachineSpeed {
  std::string name;
  std::string what;  // "NVIDIA T4 16 GB", ...
  bool gpu = false;
  bool bf16 = true;       // the GPU has bf16 arithmetic
  double memory_gib = 0;  // that the program finds free
  double bandwidth_gb_per_s = 0;
  double arithmetic_tflops = 0;  // dense, 16 bits; int8 where a CPU does that faster
  double launch_us = 0;          // of a step: launches and host time
  std::string source;            // of these
  bool measured = false;         // the fractions; else assumed
  std::string fractions_source;
  // By type, "16bit", "int8", "int4" and, for CPUs, "f32".
  std::map<std::string, Fraction> weights_read;  // of the bandwidth, decoding
  std::map<std::string, Fraction> matmul;        // of the arithmetic, many rows
  std::map<std::string, Fraction> kv_read;       // of the bandwidth, by KV type
  Fraction attention;                            // of the arithmetic, prompts
  RateCard price;                                // not known() where nobody says
};

// INVALID_ARGUMENT names the machine and the field.
absl::StatusOr<std::vector<MachineSpeed>> ParseMachineSpeeds(const std::string& json);
absl::StatusOr<std::vector<MachineSpeed>> ReadMachineSpeeds(const std::string& path);
// The table that the program carries with it.
std::vector<MachineSpeed> KnownMachineSpeeds();

// What steps take there. The types are as `--weights` and `--kv` name them. NOT_FOUND where the
// table has no fraction for one of them.
absl::StatusOr<StepCostCoefficients> StepCostsOn(const MachineSpeed& machine,
                                                 const ModelSizes& sizes,
                                                 const std::string& weights, const std::string& kv,
                                                 Assume assume);

}  // namespace tuppence
