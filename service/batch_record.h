// BatchRecord: a batch of /v1/batches as it stands: what it is made of, how far it is, what it came
// to; as a text for the store and as OpenAI's object. Used by batch_jobs and http_files. Pure.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "service/batch_totals.h"

namespace tuppence {

// In the order of a batch's life; the last four end it.
enum class BatchStatus : uint8_t {
  kValidating,  // its input was checked when it was uploaded: it waits for its turn
  kInProgress,
  kFinalizing,
  kCancelling,
  kCompleted,
  kFailed,
  kExpired,
  kCancelled,
};
inline constexpr int kBatchStatuses = 8;
const char* NameOf(BatchStatus status);  // "in_progress", ...

struct BatchRecord {
  std::string id;  // "batch_" and 32 hexadecimal digits
  std::string tenant;
  std::string endpoint;
  std::string input_file_id;
  // The names that its results get; files once it has ended, where they are not empty.
  std::string output_file_id;
  std::string error_file_id;
  BatchStatus status = BatchStatus::kValidating;
  int64_t created_at = 0;  // unix seconds, here and below
  int64_t expires_at = 0;
  int64_t output_expires_seconds = 0;  // after which its results go, as the caller asks; 0: nothing
  std::array<int64_t, kBatchStatuses> reached_at = {};  // each status; 0: not yet
  int64_t lines = 0;
  int64_t output_lines = 0;  // once it has ended
  int64_t error_lines = 0;
  BatchSums sums;
  std::string failure;              // why, of kFailed
  nlohmann::ordered_json metadata;  // the caller's; null without

  bool ended() const { return status >= BatchStatus::kCompleted; }
  void Reach(BatchStatus next, int64_t unix_seconds);
};

std::string SerialiseBatch(const BatchRecord& batch);
// DATA_LOSS where the text is none of ours.
absl::StatusOr<BatchRecord> ParseBatch(const std::string& text);

nlohmann::ordered_json OpenAiBatch(const BatchRecord& batch);

}  // namespace tuppence
