#include "cuda/sampling_batch.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "absl/strings/str_cat.h"
#include "model/check.h"

namespace tuppence::TUPPENCE_DEVICE {
namespace {

// What rows have between them of the arrays that they share.
struct Lengths {
  size_t biases = 0;
  size_t counts = 0;
  size_t banned_ids = 0;

  explicit Lengths(std::span<const SamplingRow> rows) {
    for (const SamplingRow& row : rows) {
      biases += row.biases.size();
      counts += row.counts.size();
      banned_ids += row.banned_ids.size();
    }
  }
};

// Appends a row's part of an array and says where it went.
template <typename T>
void Append(std::span<const T> from, T* array, size_t* filled, int32_t* first, int32_t* count) {
  *first = static_cast<int32_t>(*filled);
  *count = static_cast<int32_t>(from.size());
  if (!from.empty()) std::memcpy(array + *filled, from.data(), from.size_bytes());
  *filled += from.size();
}

}  // namespace

SamplingUpload::~SamplingUpload() {
  if (adjusted_ != nullptr) gpu_.Free(adjusted_);
}

size_t SamplingUpload::BytesOf(const SamplingBatch& host) {
  const Lengths all(host.rows);
  size_t bytes = 0;
  for (const size_t array :
       {host.rows.size() * sizeof(SamplingJob), all.biases * sizeof(TokenBias),
        all.counts * sizeof(TokenCount), all.banned_ids * sizeof(int32_t),
        host.mapped_ids.size_bytes(), host.rows.size() * sizeof(SampledToken)}) {
    bytes += StepUpload::Aligned(array);
  }
  return bytes;
}

void SamplingUpload::Write(const SamplingBatch& host, StepUpload& upload) {
  const Lengths all(host.rows);
  SamplingJob* const jobs = upload.Take(host.rows.size(), &jobs_);
  TokenBias* const biases = upload.Take(all.biases, &biases_);
  TokenCount* const counts = upload.Take(all.counts, &counts_);
  int32_t* const banned_ids = upload.Take(all.banned_ids, &banned_ids_);
  upload.Add(host.mapped_ids, &mapped_ids_);
  // Sent as zeros, so that what comes back holds nothing of an earlier step.
  host_results_ = upload.Take(host.rows.size(), &results_);
  if (!results_.empty()) {
    std::memset(static_cast<void*>(host_results_), 0, results_.size_bytes());
  }
  size_t bias = 0, count = 0, banned = 0;
  for (size_t i = 0; i < host.rows.size(); ++i) {
    SamplingJob& job = *new (jobs + i) SamplingJob{.row = host.rows[i]};
    Append(job.row.biases, biases, &bias, &job.bias_first, &job.bias_count);
    Append(job.row.counts, counts, &count, &job.count_first, &job.count_count);
    Append(job.row.banned_ids, banned_ids, &banned, &job.banned_first, &job.banned_count);
    job.row.biases = {};
    job.row.counts = {};
    job.row.banned_ids = {};
  }
}

absl::Status SamplingUpload::Reserve(int64_t vocab) {
  CHECK_EQ(static_cast<int64_t>(mapped_ids_.size()), (vocab + 63) / 64);
  const size_t bytes = rows() * static_cast<size_t>(vocab) * sizeof(float);
  if (bytes <= adjusted_bytes_) return absl::OkStatus();
  if (adjusted_ != nullptr) gpu_.Free(adjusted_);
  adjusted_bytes_ = std::max(bytes, 2 * adjusted_bytes_);
  adjusted_ = static_cast<float*>(gpu_.Allocate(adjusted_bytes_));
  if (adjusted_ != nullptr) return absl::OkStatus();
  adjusted_bytes_ = 0;
  return absl::ResourceExhaustedError(absl::StrCat("no room for ", bytes, " bytes to sample in"));
}

SamplingArrays SamplingUpload::arrays() const {
  return {jobs_.data(), biases_.data(), counts_.data(), banned_ids_.data(), mapped_ids_.data()};
}

void SamplingUpload::Download(std::span<SampledToken> out) {
  gpu_.CopyOut(results_.data(), out.size_bytes(), host_results_);
  wanted_ = out;
}

void SamplingUpload::Finish() {
  std::copy_n(host_results_, wanted_.size(), wanted_.begin());
  wanted_ = {};
}

}  // namespace tuppence::TUPPENCE_DEVICE
