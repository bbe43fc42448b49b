// StepCostModel: what a step ought to cost, and how its cost is divided among those who shared it.
// Used by the ledger. No clock, no I/O: the same works and coefficients give the same shares, in
// whatever order the players stand.
//
// t(S) = h + max(C, W + M) = h + W + M + max(0, D - W), over the players S of a step:
//   h  launch and host time          W    reading the weights
//   m  a player's attention, M = sum m_i: reading its keys and values, and the arithmetic on them
//   c  m and the arithmetic of its tokens in the matmuls, C = sum c_i; d = c - m, D = sum d_i
// Attention is an op of its own and hides behind no weight: counted so, the error on the CPU
// backend is a third of what it is with attention's arithmetic in c alone (demo model: p50 3.7 %
// against 8 %, charges off by 2.6 to 4.1 % against 5.5 to 7.3 %; fairness_bench). The Shapley value
// of this game: share_i = (h + W) / n + m_i + psi_i, where psi_i is i's value in v(S) = max(0, D(S)
// - W), what the arithmetic takes beyond reading the weights. Only ratios matter for charges: the
// ledger scales the shares to the measured time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "model/batch.h"

namespace tuppence {

struct StepCostCoefficients {
  double launch_ns = 50'000;      // h
  double weights_ns = 5'000'000;  // W
  double token_ns = 200'000;      // one token's arithmetic in the matmuls of all layers
  double attention_ns = 10;       // arithmetic of one query on one key
  double kv_read_ns = 20;         // reading one token's keys and values, all layers

  bool operator==(const StepCostCoefficients&) const = default;
};

// What one player did in a step.
struct StepWork {
  int64_t tokens = 0;          // positions computed
  int64_t query_keys = 0;      // (query, key) pairs of attention
  int64_t kv_read_tokens = 0;  // keys and values read, in tokens

  void Add(const StepWork& other) {
    tokens += other.tokens;
    query_keys += other.query_keys;
    kv_read_tokens += other.kv_read_tokens;
  }
};

// The work of positions [first, end) of one sequence. A chunk's queries read the keys together;
// decoded positions each read their own.
StepWork WorkOf(int64_t first, int64_t end, Phase phase);
// The work of a whole step, all its entries together.
StepWork WorkOf(const Batch& batch);

// The modelled time of a request served alone: its prompt in chunks of chunk_tokens, then a step
// for each further token, its choices side by side. In company it is charged less. Requires: all at
// least 1.
double AloneNs(const StepCostCoefficients& coefficients, int64_t prompt_tokens, int64_t max_tokens,
               int64_t choices, int64_t chunk_tokens);

// One player's modelled share: shared is its part of h + W, own the rest.
struct StepShare {
  double shared_ns = 0;
  double own_ns = 0;
};

class StepCostModel {
 public:
  static constexpr size_t kEnumerated = 4;  // the largest players, whose subsets are taken singly

  // players_max: so many players a step has at most; Divide allocates nothing.
  StepCostModel(const StepCostCoefficients& coefficients, int32_t players_max);

  // shares[i] for works[i]; none is negative. Returns the modelled time of the step. The shares add
  // up to it exactly where psi is 0 for all, else to within the integration's error.
  // Requires: equal sizes, at least one player.
  double Divide(std::span<const StepWork> works, std::span<StepShare> shares);

  // The modelled time of a step that does this work in all.
  double StepNs(const StepWork& all) const {
    return coefficients_.launch_ns + std::max(MatmulNs(all), coefficients_.weights_ns) +
           AttentionNs(all);
  }
  // What one of `players` who does this work pays at most: its arithmetic hides behind no weight.
  double ShareBoundNs(const StepWork& work, int64_t players) const {
    return (coefficients_.launch_ns + coefficients_.weights_ns) / static_cast<double>(players) +
           OwnNs(work);
  }
  bool ArithmeticBound(const StepWork& all) const {
    return MatmulNs(all) > coefficients_.weights_ns;
  }
  // The modelled arithmetic and KV time of some work alone: to split a charge by phase.
  double OwnNs(const StepWork& work) const { return MatmulNs(work) + AttentionNs(work); }

  const StepCostCoefficients& coefficients() const { return coefficients_; }
  void set_coefficients(const StepCostCoefficients& coefficients) { coefficients_ = coefficients; }

 private:
  struct Moments {
    double sum = 0;
    double squares = 0;
  };

  double MatmulNs(const StepWork& work) const {
    return coefficients_.token_ns * static_cast<double>(work.tokens);
  }
  double AttentionNs(const StepWork& work) const {
    return coefficients_.attention_ns * static_cast<double>(work.query_keys) +
           coefficients_.kv_read_ns * static_cast<double>(work.kv_read_tokens);
  }
  void FindLargest();
  void FindKinds();
  size_t Enumerate(size_t own, std::span<double, kEnumerated> enumerated) const;
  void AddPsi(const Moments& total, std::span<StepShare> shares);
  double IntegratePsi(double d, std::span<const double> enumerated, const Moments& total) const;

  StepCostCoefficients coefficients_;
  // Of the step at hand.
  std::vector<double> differences_;  // d, by player
  // psi depends on nothing but a player's d, and most players of a step decode one token each: it
  // is integrated once for each d that occurs.
  std::vector<double> kinds_;     // d
  std::vector<int32_t> kind_of_;  // by player
  std::vector<double> psi_;       // by kind
  std::vector<int32_t> largest_;  // players by falling d, the first few
};

}  // namespace tuppence
