// StepCostModel: what a step ought to cost, and how its cost is divided among those who shared it.
// Used by the ledger. Pure.
//
// t(S) = h + W + M(S) + max(0, D(S) - W), over the players S of a step:
//   h  launch and host time          W    reading the weights
//   m  a player's KV reading, M = sum m_i
//   c  its arithmetic; d = c - m, D = sum d_i
// Only ratios matter here: the ledger scales the shares to the measured time.
#pragma once

#include <cstdint>
#include <span>

namespace tuppence {

struct StepCostCoefficients {
  double launch_ns = 50'000;      // h
  double weights_ns = 5'000'000;  // W
  double token_ns = 200'000;      // arithmetic of one token through all layers
  double attention_ns = 10;       // arithmetic of one query on one key
  double kv_read_ns = 20;         // reading one token's keys and values, all layers
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

// One player's modelled share: shared is its part of h + W, own the rest.
struct StepShare {
  double shared_ns = 0;
  double own_ns = 0;
};

class StepCostModel {
 public:
  explicit StepCostModel(const StepCostCoefficients& coefficients) : coefficients_(coefficients) {}

  // shares[i] for works[i]. Requires: equal sizes, at least one player.
  void Divide(std::span<const StepWork> works, std::span<StepShare> shares) const;

  // The modelled arithmetic and KV time of some work alone: to split a charge by phase.
  double OwnNs(const StepWork& work) const;

 private:
  StepCostCoefficients coefficients_;
};

}  // namespace tuppence
