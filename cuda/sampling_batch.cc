#include "cuda/sampling_batch.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "absl/strings/str_cat.h"
#include "model/check.h"

namespace tuppence::TUPPENCE_DEVICE {
namespace {

size_t Aligned(size_t bytes) { return (bytes + 15) / 16 * 16; }

}  // namespace

SamplingUpload::~SamplingUpload() {
  if (memory_ != nullptr) gpu_.Free(memory_);
  if (pinned_ != nullptr) gpu_.FreePinned(pinned_);
  if (adjusted_ != nullptr) gpu_.Free(adjusted_);
}

absl::Status SamplingUpload::Reserve(size_t bytes, size_t adjusted_bytes) {
  if (bytes > bytes_) {
    if (memory_ != nullptr) gpu_.Free(memory_);
    if (pinned_ != nullptr) gpu_.FreePinned(pinned_);
    bytes_ = std::max(bytes, 2 * bytes_);
    memory_ = static_cast<std::byte*>(gpu_.Allocate(bytes_));
    pinned_ = static_cast<std::byte*>(gpu_.AllocatePinned(bytes_));
  }
  if (adjusted_bytes > adjusted_bytes_) {
    if (adjusted_ != nullptr) gpu_.Free(adjusted_);
    adjusted_bytes_ = std::max(adjusted_bytes, 2 * adjusted_bytes_);
    adjusted_ = static_cast<float*>(gpu_.Allocate(adjusted_bytes_));
  }
  if (memory_ != nullptr && pinned_ != nullptr && adjusted_ != nullptr) return absl::OkStatus();
  bytes_ = adjusted_bytes_ = 0;
  return absl::ResourceExhaustedError(
      absl::StrCat("no room for ", bytes + adjusted_bytes, " bytes to sample in"));
}

absl::Status SamplingUpload::Upload(const SamplingBatch& batch, int64_t vocab) {
  CHECK_EQ(static_cast<int64_t>(batch.mapped_ids.size()), (vocab + 63) / 64);
  const size_t rows = batch.rows.size();
  size_t biases = 0, counts = 0, banned = 0;
  for (const SamplingRow& row : batch.rows) {
    biases += row.biases.size();
    counts += row.counts.size();
    banned += row.banned_ids.size();
  }
  const size_t jobs_at = 0;
  const size_t biases_at = Aligned(jobs_at + rows * sizeof(SamplingJob));
  const size_t counts_at = Aligned(biases_at + biases * sizeof(TokenBias));
  const size_t banned_at = Aligned(counts_at + counts * sizeof(TokenCount));
  const size_t mapped_at = Aligned(banned_at + banned * sizeof(int32_t));
  const size_t results_at = Aligned(mapped_at + batch.mapped_ids.size_bytes());
  const absl::Status room = Reserve(results_at + rows * sizeof(SampledToken),
                                    rows * static_cast<size_t>(vocab) * sizeof(float));
  if (!room.ok()) return room;

  auto* const jobs = reinterpret_cast<SamplingJob*>(pinned_ + jobs_at);
  size_t bias = 0, count = 0, ban = 0;
  const auto append = [&](auto from, size_t at, size_t* filled, int32_t* first, int32_t* size) {
    *first = static_cast<int32_t>(*filled);
    *size = static_cast<int32_t>(from.size());
    if (!from.empty()) {
      std::memcpy(pinned_ + at + *filled * sizeof(from[0]), from.data(), from.size_bytes());
    }
    *filled += from.size();
  };
  for (size_t i = 0; i < rows; ++i) {
    SamplingJob& job = *new (jobs + i) SamplingJob{.row = batch.rows[i]};
    append(job.row.biases, biases_at, &bias, &job.bias_first, &job.bias_count);
    append(job.row.counts, counts_at, &count, &job.count_first, &job.count_count);
    append(job.row.banned_ids, banned_at, &ban, &job.banned_first, &job.banned_count);
    job.row.biases = {};
    job.row.counts = {};
    job.row.banned_ids = {};
  }
  std::memcpy(pinned_ + mapped_at, batch.mapped_ids.data(), batch.mapped_ids.size_bytes());
  gpu_.CopyIn(pinned_, results_at, memory_);
  arrays_.jobs = reinterpret_cast<const SamplingJob*>(memory_ + jobs_at);
  arrays_.biases = reinterpret_cast<const TokenBias*>(memory_ + biases_at);
  arrays_.counts = reinterpret_cast<const TokenCount*>(memory_ + counts_at);
  arrays_.banned_ids = reinterpret_cast<const int32_t*>(memory_ + banned_at);
  arrays_.mapped_ids = reinterpret_cast<const uint64_t*>(memory_ + mapped_at);
  results_ = reinterpret_cast<SampledToken*>(memory_ + results_at);
  host_results_ = reinterpret_cast<SampledToken*>(pinned_ + results_at);
  return absl::OkStatus();
}

void SamplingUpload::Download(std::span<SampledToken> out) {
  gpu_.CopyOut(results_, out.size_bytes(), host_results_);
  wanted_ = out;
}

void SamplingUpload::Finish() {
  std::copy_n(host_results_, wanted_.size(), wanted_.begin());
  wanted_ = {};
}

}  // namespace tuppence::TUPPENCE_DEVICE
