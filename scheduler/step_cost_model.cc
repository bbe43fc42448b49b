#include "scheduler/step_cost_model.h"

#include <array>
#include <bit>

#include "model/check.h"

namespace tuppence {
namespace {

// Gauss-Legendre nodes and weights on [0, 1]: exact for polynomials up to degree 31.
// Source: Abramowitz & Stegun, table 25.4, n = 16, moved from [-1, 1].
constexpr int kNodes = 16;
constexpr double kHalfNodes[kNodes / 2] = {
    0.0950125098376374402, 0.2816035507792589132, 0.4580167776572273863, 0.6178762444026437484,
    0.7554044083550030339, 0.8656312023878317439, 0.9445750230732325761, 0.9894009349916499326};
constexpr double kHalfWeights[kNodes / 2] = {
    0.1894506104550684963, 0.1826034150449235889, 0.1691565193950025382, 0.1495959888165767321,
    0.1246289712555338720, 0.0951585116824927848, 0.0622535239386478929, 0.0271524594117540949};

constexpr size_t kEnumerated = 4;

// At each node q: the node's weight times the probability q^in (1 - q)^out of one subset of `in` of
// in + out players.
struct Quadrature {
  double nodes[kNodes] = {};
  double weights[kNodes][kEnumerated + 1][kEnumerated + 1] = {};  // [node][in][out]
};

constexpr Quadrature MakeQuadrature() {
  Quadrature table;
  for (int i = 0; i < kNodes; ++i) {
    const double half = kHalfNodes[i % (kNodes / 2)] / 2;
    const double q = i < kNodes / 2 ? 0.5 - half : 0.5 + half;
    table.nodes[i] = q;
    for (size_t in = 0; in <= kEnumerated; ++in) {
      for (size_t out = 0; out <= kEnumerated; ++out) {
        double weight = kHalfWeights[i % (kNodes / 2)] / 2;
        for (size_t k = 0; k < in; ++k) weight *= q;
        for (size_t k = 0; k < out; ++k) weight *= 1 - q;
        table.weights[i][in][out] = weight;
      }
    }
  }
  return table;
}

constexpr Quadrature kQuadrature = MakeQuadrature();

// Of the table in FindKinds: by Fibonacci hashing of the value's bits.
constexpr int kSlotBits = 6;
size_t SlotOf(double d) {
  return (std::bit_cast<uint64_t>(d) * 0x9E3779B97F4A7C15) >> (64 - kSlotBits);
}

}  // namespace

StepWork WorkOf(int64_t first, int64_t end, Phase phase) {
  const int64_t tokens = end - first;
  const int64_t query_keys = tokens * (first + 1 + end) / 2;
  return {.tokens = tokens,
          .query_keys = query_keys,
          .kv_read_tokens = phase == Phase::kPrefill ? end : query_keys};
}

double AloneNs(const StepCostCoefficients& coefficients, int64_t prompt_tokens, int64_t max_tokens,
               int64_t choices, int64_t chunk_tokens) {
  const StepCostModel model(coefficients, 0);
  double ns = 0;
  for (int64_t first = 0; first < prompt_tokens; first += chunk_tokens) {
    const int64_t end = std::min(prompt_tokens, first + chunk_tokens);
    ns += model.StepNs(WorkOf(first, end, Phase::kPrefill));
  }
  // Attention grows evenly from step to step: all of them cost as much as if each were the mean.
  const int64_t steps = max_tokens - 1;
  const StepWork decodes = WorkOf(prompt_tokens, prompt_tokens + max_tokens - 1, Phase::kDecode);
  const StepWork no_attention = {.tokens = choices};
  return ns + static_cast<double>(steps) * model.StepNs(no_attention) +
         static_cast<double>(choices) *
             (model.OwnNs(decodes) - model.OwnNs({.tokens = decodes.tokens}));
}

StepWork WorkOf(const Batch& batch) {
  StepWork work;
  for (int32_t entry = 0; entry < batch.entries(); ++entry) {
    const int64_t first = batch.positions[batch.entry_starts[entry]];
    const int64_t tokens = batch.entry_starts[entry + 1] - batch.entry_starts[entry];
    work.Add(WorkOf(first, first + tokens, batch.entry_phases[entry]));
  }
  return work;
}

StepCostModel::StepCostModel(const StepCostCoefficients& coefficients, int32_t players_max)
    : coefficients_(coefficients) {
  differences_.reserve(players_max);
  kinds_.reserve(players_max);
  kind_of_.reserve(players_max);
  psi_.reserve(players_max);
  largest_.reserve(players_max);
}

// Sums are of the works' integers, so that no order of the players shows in the last bit.
double StepCostModel::Divide(std::span<const StepWork> works, std::span<StepShare> shares) {
  CHECK(!works.empty());
  CHECK_EQ(works.size(), shares.size());
  const double shared_ns =
      (coefficients_.launch_ns + coefficients_.weights_ns) / static_cast<double>(works.size());
  differences_.resize(works.size());
  StepWork all;
  for (size_t i = 0; i < works.size(); ++i) {
    differences_[i] = MatmulNs(works[i]);
    shares[i] = {.shared_ns = shared_ns, .own_ns = AttentionNs(works[i])};
    all.Add(works[i]);
  }
  // No d is negative: if all together stay below W, so does every subset, and psi is 0.
  if (ArithmeticBound(all)) AddPsi(MatmulNs(all), shares);
  return StepNs(all);
}

// Equal players are interchangeable, whichever of them stands there.
void StepCostModel::FindLargest() {
  const auto falls = [this](int32_t a, int32_t b) { return differences_[a] > differences_[b]; };
  largest_.clear();
  for (int32_t i = 0; i < static_cast<int32_t>(differences_.size()); ++i) {
    if (largest_.size() > kEnumerated) {
      if (!falls(i, largest_.back())) continue;
      largest_.pop_back();
    }
    largest_.insert(std::upper_bound(largest_.begin(), largest_.end(), i, falls), i);
  }
}

// A kind may be there twice, where another one took its slot in between.
void StepCostModel::FindKinds() {
  std::array<int32_t, size_t{1} << kSlotBits> slots;
  slots.fill(-1);
  kinds_.clear();
  kind_of_.clear();
  for (const double d : differences_) {
    int32_t& kind = slots[SlotOf(d)];
    if (kind < 0 || kinds_[kind] != d) {
      kind = static_cast<int32_t>(kinds_.size());
      kinds_.push_back(d);
    }
    kind_of_.push_back(kind);
  }
}

void StepCostModel::AddPsi(double total_d, std::span<StepShare> shares) {
  FindLargest();
  FindKinds();
  psi_.assign(kinds_.size(), 0.0);
  // For most players the four largest others are the four largest of all.
  std::array<double, kEnumerated> enumerated;
  const size_t count = std::min(kEnumerated, largest_.size());
  for (size_t k = 0; k < count; ++k) enumerated[k] = differences_[largest_[k]];
  if (largest_.size() > kEnumerated) {
    IntegratePsi({enumerated.data(), count}, total_d, differences_[largest_.back()], kinds_, psi_);
  }
  // For those four the fifth takes their place.
  for (size_t own = 0; own < count; ++own) {
    const int32_t player = largest_[own];
    // The fifth's equal has the same four others.
    if (largest_.size() > kEnumerated && differences_[player] == differences_[largest_.back()]) {
      continue;
    }
    size_t others = 0;
    for (size_t k = 0; k < largest_.size(); ++k) {
      if (k != own) enumerated[others++] = differences_[largest_[k]];
    }
    double& psi = psi_[kind_of_[player]];
    psi = 0;
    IntegratePsi({enumerated.data(), others}, total_d, differences_[player],
                 {&differences_[player], 1}, {&psi, 1});
  }
  for (size_t i = 0; i < shares.size(); ++i) {
    // Each marginal value lies between 0 and d: rounding must not leave that range.
    shares[i].own_ns += std::clamp(psi_[kind_of_[i]], 0.0, differences_[i]);
  }
}

// psi[i] += the integral over q in [0, 1] of E[v(R with i) - v(R)], where R holds each of the
// enumerated with probability q and of everybody else, i left out, the part q of their sum (the
// multilinear extension, Owen 1972, with the many small players as a continuum).
//   enumerated  d of up to four players, i not among them
//   total_d     D of all players
//   spread      no player i asked for has a larger d; others may stand in `differences`, whose
//               psi then means nothing
void StepCostModel::IntegratePsi(std::span<const double> enumerated, double total_d, double spread,
                                 std::span<const double> differences, std::span<double> psi) const {
  double rest = total_d;
  double sums[size_t{1} << kEnumerated] = {};  // D of each subset of the enumerated
  size_t subsets = 1;
  for (const double d : enumerated) {
    rest -= d;
    for (size_t subset = 0; subset < subsets; ++subset) sums[subsets + subset] = sums[subset] + d;
    subsets *= 2;
  }
  double always = 0;  // probability that i's d counts in full
  for (int node = 0; node < kNodes; ++node) {
    const double q = kQuadrature.nodes[node];
    const double others = q * rest - coefficients_.weights_ns;
    for (size_t subset = 0; subset < subsets; ++subset) {
      const double base = sums[subset] + others;
      if (base <= -spread) continue;  // below the roof with or without i
      const size_t in = std::popcount(subset);
      const double probability = kQuadrature.weights[node][in][enumerated.size() - in];
      if (base >= spread) {
        always += probability;
        continue;
      }
      for (size_t i = 0; i < differences.size(); ++i) {
        const double without = base - q * differences[i];
        psi[i] += probability * (std::max(0.0, without + differences[i]) - std::max(0.0, without));
      }
    }
  }
  for (size_t i = 0; i < differences.size(); ++i) psi[i] += always * differences[i];
}

}  // namespace tuppence
