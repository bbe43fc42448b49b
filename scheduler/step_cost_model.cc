#include "scheduler/step_cost_model.h"

#include <array>
#include <bit>
#include <iterator>

#include "model/check.h"

namespace tuppence {
namespace {

constexpr size_t kEnumerated = StepCostModel::kEnumerated;
constexpr size_t kFew = 32;

// Gauss-Legendre's three nodes and weights on [0, 1]: exact for polynomials up to degree 5, which
// is what the probability of a subset of four times a line is.
constexpr double kGaussNodes[] = {0.1127016653792583115, 0.5, 0.8872983346207416885};
constexpr double kGaussWeights[] = {5.0 / 18, 8.0 / 18, 5.0 / 18};

double Power(double base, int exponent) {
  double power = 1;
  for (int k = 0; k < exponent; ++k) power *= base;
  return power;
}

// The integral over q in [0, 1] of q^in (1 - q)^out E[max(0, at_zero + X)], where X is the sum of
// many small players that are each there with probability q: `rest` their sum, `squares` the sum of
// their squares. As if X were its mean q rest; and, where that crosses zero, what its variance
// q (1 - q) squares adds: half of the variance over the slope, for any narrow distribution.
// Requires: in + out is at most four.
double IntegralAbove(double at_zero, double rest, double squares, int in, int out) {
  if (at_zero + rest <= 0) return 0;
  const double begin = at_zero < 0 ? -at_zero / rest : 0;
  const double width = 1 - begin;
  double sum = 0;
  for (size_t k = 0; k < std::size(kGaussNodes); ++k) {
    const double q = begin + width * kGaussNodes[k];
    sum += kGaussWeights[k] * Power(q, in) * Power(1 - q, out) * (at_zero + rest * q);
  }
  double spread = 0;
  if (begin > 0) {
    spread = Power(begin, in + 1) * Power(width, out + 1) * squares / (2 * rest);
  }
  return width * sum + spread;
}

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
  int64_t token_squares = 0;
  for (size_t i = 0; i < works.size(); ++i) {
    token_squares += works[i].tokens * works[i].tokens;
    differences_[i] = MatmulNs(works[i]);
    shares[i] = {.shared_ns = shared_ns, .own_ns = AttentionNs(works[i])};
    all.Add(works[i]);
  }
  // No d is negative: if all together stay below W, so does every subset, and psi is 0.
  if (ArithmeticBound(all)) {
    const double squares =
        coefficients_.token_ns * coefficients_.token_ns * static_cast<double>(token_squares);
    AddPsi({.sum = MatmulNs(all), .squares = squares}, shares);
  }
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

// The largest but `own`, as far as they are worth a subset each: among many players those who are
// no larger than the fifth are held by the continuum as well. Returns how many.
size_t StepCostModel::Enumerate(size_t own, std::span<double, kEnumerated> enumerated) const {
  const double fifth = differences_[largest_.back()];
  size_t count = 0;
  for (size_t k = 0; k < largest_.size() && count < kEnumerated; ++k) {
    const double d = differences_[largest_[k]];
    if (k == own || (differences_.size() > kFew && d == fifth)) continue;
    enumerated[count++] = d;
  }
  return count;
}

void StepCostModel::AddPsi(const Moments& total, std::span<StepShare> shares) {
  FindLargest();
  FindKinds();
  std::array<double, kEnumerated> enumerated;
  const bool has_rest = largest_.size() > kEnumerated;
  // For most players the four largest others are the four largest of all.
  psi_.assign(kinds_.size(), 0.0);
  if (has_rest) {
    const size_t count = Enumerate(largest_.size(), enumerated);
    for (size_t kind = 0; kind < kinds_.size(); ++kind) {
      psi_[kind] = IntegratePsi(kinds_[kind], {enumerated.data(), count}, total);
    }
  }
  // For those four the fifth takes their place. Its equal has the same four others as it has.
  for (size_t own = 0; own < std::min(kEnumerated, largest_.size()); ++own) {
    const double d = differences_[largest_[own]];
    if (has_rest && d == differences_[largest_.back()]) continue;
    const size_t count = Enumerate(own, enumerated);
    psi_[kind_of_[largest_[own]]] = IntegratePsi(d, {enumerated.data(), count}, total);
  }
  for (size_t i = 0; i < shares.size(); ++i) {
    // Each marginal value lies between 0 and d: rounding must not leave that range.
    shares[i].own_ns += std::clamp(psi_[kind_of_[i]], 0.0, differences_[i]);
  }
}

// The integral over q in [0, 1] of E[v(R with i) - v(R)], where R holds everybody but i with
// probability q (the multilinear extension, Owen 1972): the enumerated one by one, the others, many
// and small, by their sum's mean and variance.
//   d           i's
//   enumerated  d of up to four players, i not among them
//   total       of all players: the sum of d, and of its square
double StepCostModel::IntegratePsi(double d, std::span<const double> enumerated,
                                   const Moments& total) const {
  double rest = total.sum - d;
  double squares = total.squares - d * d;
  double sums[size_t{1} << kEnumerated] = {};  // D of each subset of the enumerated
  size_t subsets = 1;
  for (const double other : enumerated) {
    rest -= other;
    squares -= other * other;
    for (size_t subset = 0; subset < subsets; ++subset) {
      sums[subsets + subset] = sums[subset] + other;
    }
    subsets *= 2;
  }
  rest = std::max(0.0, rest);
  squares = std::max(0.0, squares);
  double psi = 0;
  for (size_t subset = 0; subset < subsets; ++subset) {
    const double without = sums[subset] - coefficients_.weights_ns;
    const int in = std::popcount(subset);
    const int out = static_cast<int>(enumerated.size()) - in;
    psi += IntegralAbove(without + d, rest, squares, in, out) -
           IntegralAbove(without, rest, squares, in, out);
  }
  return psi;
}

}  // namespace tuppence
