// Sampling: one draw, or one score, for each job. The rules are those of model/backend.h's Sample.
//
// Formula   drawn: the id with the largest (l - max) / temperature - log(-log(u(id))), u by Philox,
//           among those that top-k, top-p and min-p leave; ties to the lower id.
// Exact     Ids are ordered by a 64-bit key (logit, then lower id first), so no two are equal. A
//           border key is found byte by byte, from a histogram of counts (top-k) or of weights as
//           whole multiples of 2^-40 (top-p): integers, whose sums know no order. So the result is
//           the same on every device but for the last place of exp.
// Draw      All survivors are compared in f32; those within a margin of the best are compared again
//           in double, which a cheap GPU has little of.
// Mapping   one block for each job; thread i takes ids i, i + threads, ...
// Traffic   about 20 passes over a row that stays in the second-level cache.
#pragma once

#include "cuda/kernels.h"
#include "cuda/tile.cuh"
#include "model/philox.h"

namespace tuppence::TUPPENCE_DEVICE {

constexpr int kSamplingThreadsMax = 512;
constexpr int kDigits = 256;
constexpr float kMargin = 1e-3f;  // far above what f32 gets wrong in two logarithms

using Mass = unsigned long long;

struct SamplingShared {
  Mass histogram[kDigits];
  Mass border;
  Mass wanted;
  Mass largest_key;
  Mass total;
  int bad;
  int listed;
  Mass list[kTopLogprobsMax];
  float best[kSamplingThreadsMax];
  double exact_best[kSamplingThreadsMax];
  int exact_id[kSamplingThreadsMax];
};

// Orders floats as integers, then lower ids first. No NaN.
__device__ inline Mass KeyOf(float logit, int id) {
  const uint32_t bits = BitsOf(logit);
  const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<Mass>(ordered) << 32 | ~static_cast<uint32_t>(id);
}
__device__ inline int IdOf(Mass key) { return static_cast<int>(~static_cast<uint32_t>(key)); }
__device__ inline float LogitOf(Mass key) {
  const uint32_t ordered = static_cast<uint32_t>(key >> 32);
  return FloatOf(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}

// A weight in (0, 1] as a whole multiple of 2^-40.
__device__ inline Mass MassOf(float weight) { return static_cast<Mass>(weight * 0x1p40f); }

// The largest key of a row; `bad` where a logit is NaN or +infinity.
__device__ inline Mass LargestKey(const float* logits, int vocab, SamplingShared& shared) {
  if (Thread() == 0) shared.largest_key = 0, shared.bad = 0;
  Barrier();
  Mass largest = 0;
  bool bad = false;
  for (int id = Thread(); id < vocab; id += Threads()) {
    const float logit = logits[id];
    bad = bad || logit != logit || logit == HUGE_VALF;
    const Mass key = KeyOf(logit, id);
    largest = key > largest ? key : largest;
  }
  largest = WarpMax(largest);  // of many at one address memory would take one after the other
  if (Lane() == 0) AtomicMax(&shared.largest_key, largest);
  if (bad) AtomicAdd(&shared.bad, 1);
  Barrier();
  return shared.largest_key;
}

// Sum over ids of mass(id, key), which is whole: the order does not matter.
template <typename MassAt>
__device__ inline Mass SumMass(const float* logits, int vocab, SamplingShared& shared,
                               const MassAt& mass) {
  Barrier();
  if (Thread() == 0) shared.total = 0;
  Barrier();
  Mass sum = 0;
  for (int id = Thread(); id < vocab; id += Threads()) {
    sum += mass(logits[id], KeyOf(logits[id], id));
  }
  sum = WarpSum(sum);
  if (Lane() == 0) AtomicAdd(&shared.total, sum);
  Barrier();
  return shared.total;
}

// histogram[digit] += one, for each lane; 0 is nothing. Logits agree in their first digits, and
// memory would take the additions of a warp to one of them one after the other: so the lanes that
// agree with the first one left add up among themselves. After some rounds those that are left
// differ.
__device__ inline void AddToHistogram(Mass* histogram, int digit, Mass one) {
  constexpr int kRounds = 4;
  uint32_t left = Ballot(one > 0);
  for (int round = 0; round < kRounds && left != 0; ++round) {
    const int first = LowestBit(left);
    const uint32_t theirs = Shuffle(static_cast<uint32_t>(digit), first);
    const bool agrees = one > 0 && static_cast<uint32_t>(digit) == theirs;
    const Mass sum = WarpSum(agrees ? one : Mass{0});
    if (Lane() == first) AtomicAdd(&histogram[digit], sum);
    left &= ~Ballot(agrees);
  }
  if (left >> Lane() & 1) AtomicAdd(&histogram[digit], one);
}

// The largest key such that keys from it on have a mass of `wanted` or more; 0 if all have less.
template <typename MassAt>
__device__ inline Mass FindBorder(const float* logits, int vocab, Mass wanted,
                                  SamplingShared& shared, const MassAt& mass) {
  Mass prefix = 0;
  Barrier();
  if (Thread() == 0) shared.wanted = wanted;
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int i = Thread(); i < kDigits; i += Threads()) shared.histogram[i] = 0;
    Barrier();
    for (int first = 0; first < vocab; first += Threads()) {
      const int id = first + Thread();
      const Mass key = id < vocab ? KeyOf(logits[id], id) : 0;
      const bool counts = id < vocab && key >> shift >> 8 == prefix;
      AddToHistogram(shared.histogram, static_cast<int>(key >> shift & (kDigits - 1)),
                     counts ? mass(logits[id], key) : Mass{0});
    }
    Barrier();
    if (Thread() == 0) {
      int digit = kDigits - 1;
      Mass left = shared.wanted;
      while (digit > 0 && shared.histogram[digit] < left) left -= shared.histogram[digit--];
      shared.wanted = left;
      shared.border = prefix << 8 | static_cast<Mass>(digit);
    }
    Barrier();
    prefix = shared.border;
  }
  return prefix;
}

// The row's logits with everything that the caller asked for, in `adjusted`.
__device__ inline void AdjustLogits(const float* logits, int vocab, const SamplingArrays& arrays,
                                    const SamplingJob& job, float* adjusted) {
  const SamplingRow& row = job.row;
  for (int id = Thread(); id < vocab; id += Threads()) {
    const bool mapped = arrays.mapped_ids[id / 64] >> (id % 64) & 1;
    adjusted[id] = mapped ? logits[id] : -HUGE_VALF;
  }
  Barrier();
  for (int i = Thread(); i < job.banned_count; i += Threads()) {
    adjusted[arrays.banned_ids[job.banned_first + i]] = -HUGE_VALF;
  }
  Barrier();
  for (int i = Thread(); i < job.bias_count; i += Threads()) {
    const TokenBias& bias = arrays.biases[job.bias_first + i];
    adjusted[bias.token_id] += bias.bias;
  }
  Barrier();
  for (int i = Thread(); i < job.count_count; i += Threads()) {
    const TokenCount& count = arrays.counts[job.count_first + i];
    float logit = adjusted[count.token_id];
    if (count.in_prompt || count.output_count > 0) {
      logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    }
    if (count.output_count > 0) {
      logit -= row.presence_penalty;
      logit -= row.frequency_penalty * static_cast<float>(count.output_count);
    }
    adjusted[count.token_id] = logit;
  }
  Barrier();
}

// Keys from the result on may be drawn, but for min-p.
__device__ inline Mass BorderOf(const float* logits, int vocab, float max, const SamplingRow& row,
                                SamplingShared& shared) {
  Mass border = 0;
  if (row.top_k > 0) {
    border = FindBorder(logits, vocab, static_cast<Mass>(row.top_k), shared,
                        [](float, Mass) { return Mass{1}; });
  }
  if (row.top_p < 1) {
    const auto mass = [&](float logit, Mass key) {
      return key >= border ? MassOf(Exp((logit - max) / row.temperature)) : Mass{0};
    };
    const Mass total = SumMass(logits, vocab, shared, mass);
    const double share = static_cast<double>(row.top_p) * static_cast<double>(total);
    const Mass rounded = static_cast<Mass>(share);
    const Mass wanted = static_cast<double>(rounded) < share ? rounded + 1 : rounded;
    border = FindBorder(logits, vocab, wanted > 0 ? wanted : 1, shared, mass);
  }
  return border;
}

// The Gumbel draw among ids whose key is at least `border`.
__device__ inline int Draw(const float* logits, int vocab, float max, Mass border,
                           const SamplingRow& row, SamplingShared& shared) {
  const uint32_t index = static_cast<uint32_t>(row.output_index);
  const auto may_win = [&](int id) {
    if (KeyOf(logits[id], id) < border || logits[id] == -HUGE_VALF) return false;
    return row.min_p == 0 || Exp((logits[id] - max) / row.temperature) >= row.min_p;
  };
  const auto roughly = [&](int id) {
    const float u = PhiloxUniform(row.key, index, static_cast<uint32_t>(id));
    return (logits[id] - max) / row.temperature - Log(-Log(u));
  };
  float best = -HUGE_VALF;
  for (int id = Thread(); id < vocab; id += Threads()) {
    if (!may_win(id)) continue;
    const float value = roughly(id);
    best = value > best ? value : best;
  }
  shared.best[Thread()] = best;
  Barrier();
  for (int i = 0; i < Threads(); ++i) best = shared.best[i] > best ? shared.best[i] : best;
  double exact_best = -HUGE_VAL;
  int exact_id = -1;
  for (int id = Thread(); id < vocab; id += Threads()) {
    if (!may_win(id) || roughly(id) < best - kMargin) continue;
    const double u = static_cast<double>(PhiloxUniform(row.key, index, static_cast<uint32_t>(id)));
    const double y = static_cast<double>((logits[id] - max) / row.temperature);
    const double value = y - Log(-Log(u));
    if (value > exact_best) exact_best = value, exact_id = id;
  }
  shared.exact_best[Thread()] = exact_best;
  shared.exact_id[Thread()] = exact_id;
  Barrier();
  for (int i = 0; i < Threads(); ++i) {
    const double other = shared.exact_best[i];
    const int id = shared.exact_id[i];
    if (id < 0 || other < exact_best) continue;
    if (other > exact_best || exact_id < 0 || id < exact_id) exact_best = other, exact_id = id;
  }
  return exact_id;
}

// Log-probabilities of the raw logits: the token's, and the largest ones by falling value.
__device__ inline void AddLogprobs(const float* logits, int vocab, Mass largest_key,
                                   const SamplingRow& row, SamplingShared& shared,
                                   SampledToken* out) {
  const float max = LogitOf(largest_key);
  const Mass sum =
      SumMass(logits, vocab, shared, [&](float logit, Mass) { return MassOf(Exp(logit - max)); });
  const double log_sum = static_cast<double>(max) + Log(static_cast<double>(sum) * 0x1p-40);
  int wanted = row.top_logprobs < kTopLogprobsMax ? row.top_logprobs : kTopLogprobsMax;
  wanted = wanted < vocab ? wanted : vocab;
  if (wanted > 0) {
    if (Thread() == 0) shared.listed = 0;
    const Mass border = FindBorder(logits, vocab, static_cast<Mass>(wanted), shared,
                                   [](float, Mass) { return Mass{1}; });
    for (int id = Thread(); id < vocab; id += Threads()) {
      const Mass key = KeyOf(logits[id], id);
      if (key >= border) shared.list[AtomicAdd(&shared.listed, 1)] = key;
    }
    Barrier();
  }
  if (Thread() != 0) return;
  out->logprob = static_cast<float>(static_cast<double>(logits[out->token_id]) - log_sum);
  out->top_count = wanted;
  for (int i = 0; i < wanted; ++i) {
    for (int j = i + 1; j < wanted; ++j) {
      if (shared.list[j] <= shared.list[i]) continue;
      const Mass kept = shared.list[i];
      shared.list[i] = shared.list[j];
      shared.list[j] = kept;
    }
    out->top[i].token_id = IdOf(shared.list[i]);
    out->top[i].logprob =
        static_cast<float>(static_cast<double>(LogitOf(shared.list[i])) - log_sum);
  }
}

__global__ void __launch_bounds__(kSamplingThreadsMax, 1)
    SampleKernel(const float* all_logits, int vocab, SamplingArrays arrays, float* all_adjusted,
                 SampledToken* all_out) {
  auto& shared = Shared<SamplingShared>();
  const SamplingJob& job = arrays.jobs[BlockX()];
  const SamplingRow& row = job.row;
  SampledToken* const out = all_out + BlockX();
  const float* const logits = all_logits + static_cast<int64_t>(row.logit_row) * vocab;
  const Mass raw_key = LargestKey(logits, vocab, shared);
  const bool bad = shared.bad > 0 || LogitOf(raw_key) == -HUGE_VALF;
  if (Thread() == 0) {
    out->token_id = row.scored_token;
    out->logprob = 0;
    out->not_finite = bad;
    out->top_count = 0;
  }
  if (bad) return;
  if (row.scored_token < 0) {
    float* const adjusted = all_adjusted + static_cast<int64_t>(BlockX()) * vocab;
    AdjustLogits(logits, vocab, arrays, job, adjusted);
    const Mass key = LargestKey(adjusted, vocab, shared);
    const float max = LogitOf(key);
    if (max == -HUGE_VALF) {
      if (Thread() == 0) out->not_finite = true;
      return;
    }
    int id = IdOf(key);
    if (row.temperature > 0) {
      const Mass border = BorderOf(adjusted, vocab, max, row, shared);
      id = Draw(adjusted, vocab, max, border, row, shared);
    }
    if (Thread() == 0) out->token_id = id;
  }
  if (row.logprob || row.top_logprobs > 0 || row.scored_token >= 0) {
    AddLogprobs(logits, vocab, raw_key, row, shared, out);
  }
}

}  // namespace tuppence::TUPPENCE_DEVICE
