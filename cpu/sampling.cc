#include "cpu/sampling.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "model/check.h"

namespace tuppence {

namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Top-k and top-p look at ids by falling logit without sorting all of them: ids fall into buckets
// by their distance from the largest logit, 64 buckets a nat over 32 nats, and only the bucket
// that holds the border is sorted.
constexpr int kBuckets = 2048;

int BucketOf(float logit, float max) {
  return static_cast<int>(std::min((max - logit) * 64.0f, static_cast<float>(kBuckets - 1)));
}

// By falling logit, ties by id.
struct ByLogit {
  const float* logits;
  bool operator()(int32_t a, int32_t b) const {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  }
};

void MaskIds(std::span<const uint64_t> mapped_ids, std::span<float> logits) {
  for (size_t word = 0; word * 64 < logits.size(); ++word) {
    if (mapped_ids[word] == ~uint64_t{0}) continue;
    const size_t last = std::min(logits.size(), word * 64 + 64);
    for (size_t id = word * 64; id < last; ++id) {
      if (((mapped_ids[word] >> (id % 64)) & 1) == 0) logits[id] = kMinusInfinity;
    }
  }
}

void AdjustLogits(const SamplingRow& row, std::span<float> logits) {
  for (const int32_t id : row.banned_ids) logits[id] = kMinusInfinity;
  for (const TokenBias& bias : row.biases) logits[bias.token_id] += bias.bias;
  for (const TokenCount& count : row.counts) {
    float& logit = logits[count.token_id];
    if (count.in_prompt || count.output_count > 0) {
      logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    }
    if (count.output_count > 0) {
      logit -= row.presence_penalty;
      logit -= row.frequency_penalty * static_cast<float>(count.output_count);
    }
  }
}

// Exactly k ids keep their weight; at the border the lower ids win.
void KeepTopK(std::span<const float> logits, float max, int32_t k, std::span<float> weights,
              std::vector<int32_t>& border) {
  const int32_t count = static_cast<int32_t>(logits.size());
  if (k >= count) return;
  std::array<int32_t, kBuckets> ids_in = {};
  for (const float logit : logits) ++ids_in[BucketOf(logit, max)];
  int bucket = 0;
  int32_t left = k;  // still to be kept, from `bucket` on
  while (left > ids_in[bucket]) left -= ids_in[bucket++];
  border.clear();
  for (int32_t id = 0; id < count; ++id) {
    const int mine = BucketOf(logits[id], max);
    if (mine == bucket) border.push_back(id);
    if (mine > bucket) weights[id] = 0;
  }
  if (left == static_cast<int32_t>(border.size())) return;
  std::nth_element(border.begin(), border.begin() + left, border.end(), ByLogit{logits.data()});
  for (size_t i = left; i < border.size(); ++i) weights[border[i]] = 0;
}

// The smallest set of most likely ids whose weights sum to top_p of all, at least one. Order of
// the sum, in double: buckets from the top, ids inside a bucket in order; inside the border's
// bucket by falling logit.
void KeepTopP(std::span<const float> logits, float max, double top_p, std::span<float> weights,
              std::vector<int32_t>& border) {
  const int32_t count = static_cast<int32_t>(logits.size());
  std::array<double, kBuckets> mass = {};
  for (int32_t id = 0; id < count; ++id) {
    if (weights[id] > 0) mass[BucketOf(logits[id], max)] += static_cast<double>(weights[id]);
  }
  double total = 0;
  for (const double part : mass) total += part;
  const double wanted = top_p * total;
  int bucket = 0;
  double sum = 0;
  while (bucket < kBuckets - 1 && sum + mass[bucket] < wanted) sum += mass[bucket++];
  border.clear();
  for (int32_t id = 0; id < count; ++id) {
    if (weights[id] == 0) continue;
    const int mine = BucketOf(logits[id], max);
    if (mine == bucket) border.push_back(id);
    if (mine > bucket) weights[id] = 0;
  }
  std::sort(border.begin(), border.end(), ByLogit{logits.data()});
  size_t kept = 0;
  while (kept < border.size()) {
    sum += static_cast<double>(weights[border[kept++]]);
    if (sum >= wanted) break;
  }
  for (; kept < border.size(); ++kept) weights[border[kept]] = 0;
}

void FindTopLogprobs(std::span<const float> logits, int32_t wanted, double log_sum,
                     SampledToken& token) {
  const int32_t most = std::min({wanted, kTopLogprobsMax, static_cast<int32_t>(logits.size())});
  CHECK_GE(most, 0);
  int32_t count = 0;
  std::array<int32_t, kTopLogprobsMax> ids;
  const ByLogit before{logits.data()};
  for (int32_t id = 0; id < static_cast<int32_t>(logits.size()); ++id) {
    if (count == most && (most == 0 || !(logits[id] > logits[ids[most - 1]]))) continue;
    int32_t place = count < most ? count++ : most - 1;
    for (; place > 0 && before(id, ids[place - 1]); --place) ids[place] = ids[place - 1];
    ids[place] = id;
  }
  token.top_count = count;
  for (int32_t i = 0; i < count; ++i) {
    token.top[i] = {ids[i], static_cast<float>(static_cast<double>(logits[ids[i]]) - log_sum)};
  }
}

}  // namespace

SamplingOp::SamplingOp(const Kernels& kernels, ThreadPool& pool)
    : kernels_(kernels), pool_(pool), workspaces_(pool.threads()) {}

void SamplingOp::Run(Tensor logits, const SamplingBatch& batch, std::span<SampledToken> out) {
  const int64_t vocab = logits.shape[1];
  CHECK(logits.type == DType::kF32);
  CHECK_EQ(out.size(), batch.rows.size());
  CHECK_EQ(static_cast<int64_t>(batch.mapped_ids.size()), (vocab + 63) / 64);
  pool_.ParallelFor(static_cast<int64_t>(batch.rows.size()), [&](int64_t index, int thread) {
    const SamplingRow& row = batch.rows[index];
    CHECK_LT(row.logit_row, logits.shape[0]);
    const std::span<const float> values(logits.as<float>() + row.logit_row * vocab,
                                        static_cast<size_t>(vocab));
    out[index] = SampleRow(values, row, batch.mapped_ids, workspaces_[thread]);
  });
}

SampledToken SamplingOp::SampleRow(std::span<const float> logits, const SamplingRow& row,
                                   std::span<const uint64_t> mapped_ids,
                                   Workspace& workspace) const {
  SampledToken token;
  const int64_t count = static_cast<int64_t>(logits.size());
  const ScanResult raw = kernels_.scan_logits(logits.data(), count);
  if (!raw.finite || raw.max == kMinusInfinity) {
    token.not_finite = true;
    return token;
  }
  if (row.scored_token >= 0) {
    token.token_id = row.scored_token;
  } else {
    float* const copy = workspace.adjusted.Get<float>(logits.size());
    std::memcpy(copy, logits.data(), logits.size_bytes());
    const std::span<float> adjusted(copy, logits.size());
    MaskIds(mapped_ids, adjusted);
    AdjustLogits(row, adjusted);
    const float max = kernels_.scan_logits(copy, count).max;
    if (max == kMinusInfinity) {
      token.not_finite = true;
      return token;
    }
    token.token_id = DrawToken(adjusted, max, row, workspace);
  }
  if (row.logprob || row.top_logprobs > 0 || row.scored_token >= 0) {
    const double log_sum =
        static_cast<double>(raw.max) + std::log(kernels_.sum_exp(logits.data(), count, raw.max));
    token.logprob = static_cast<float>(static_cast<double>(logits[token.token_id]) - log_sum);
    FindTopLogprobs(logits, row.top_logprobs, log_sum, token);
  }
  return token;
}

int32_t SamplingOp::DrawToken(std::span<const float> adjusted, float max, const SamplingRow& row,
                              Workspace& workspace) const {
  const int64_t count = static_cast<int64_t>(adjusted.size());
  if (!(row.temperature > 0)) {
    return static_cast<int32_t>(std::find(adjusted.begin(), adjusted.end(), max) -
                                adjusted.begin());
  }
  const std::span<float> weights(workspace.weights.Get<float>(adjusted.size()), adjusted.size());
  kernels_.soft_weights(adjusted.data(), count, max, row.temperature, weights.data());
  if (row.top_k > 0) KeepTopK(adjusted, max, row.top_k, weights, workspace.border);
  if (row.top_p < 1) {
    KeepTopP(adjusted, max, static_cast<double>(row.top_p), weights, workspace.border);
  }
  if (row.min_p > 0) {
    for (float& weight : weights) weight = weight >= row.min_p ? weight : 0.0f;
  }
  DrawCall call;
  call.weights = weights.data();
  call.logits = adjusted.data();
  call.count = static_cast<int32_t>(count);
  call.max = max;
  call.temperature = row.temperature;
  call.key = row.key;
  call.output_index = static_cast<uint32_t>(row.output_index);
  return kernels_.draw(call);
}

}  // namespace tuppence
