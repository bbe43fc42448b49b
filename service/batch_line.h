// One line of a batch on its way: what it asks the service, and the line that its answer becomes.
// In: OpenAI's batch lines, {custom_id, method, url, body}, and beside them what a line may bring
// to be compared with, `expected` or `reference_answer`. Out: {id, custom_id, response, error},
// with the answer's mean log-probability. Used by batch_runner. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "service/batch_input.h"
#include "service/reference_price.h"
#include "tuppence/v1/tuppence.pb.h"

namespace tuppence {

struct BatchAsk {
  std::string custom_id;
  bool is_chat = true;          // otherwise a completion
  bool shows_logprobs = false;  // the body asks for them; the mean comes with every answer
  std::optional<std::string> expected;
  std::optional<std::string> reference_answer;
  v1::GenerateRequest request;
};

// INVALID_ARGUMENT where the line cannot be asked: no JSON, another method or url, a stream, a body
// with wrong fields. Always of priority class batch.
absl::StatusOr<BatchAsk> ReadBatchLine(const BatchLine& line);

// What comes, message by message, until it is a line of the output.
class BatchAnswer {
 public:
  explicit BatchAnswer(const BatchAsk& ask);  // which outlives this

  void Add(const v1::GenerateResponse& message);
  // What was used and what it cost; for a last message that was lost: from the books.
  void SetEnd(const v1::Usage& usage, const v1::Cost& cost);
  // Each choice has its finish reason: all of the text is there, though the end may be not.
  bool complete() const { return finished_ == static_cast<int64_t>(choices_.size()); }
  bool has_end() const { return cost_.has_value(); }
  const std::string& request_id() const { return request_id_; }

  // The output's line; `id` is unique and carries the input line's number. reference: what the
  // answer's tokens would have cost there, if the service does not say. Requires: complete,
  // has_end.
  std::string Line(const std::string& id, int64_t created_unix_seconds,
                   const std::optional<ReferencePrice>& reference) const;

 private:
  struct Choice {
    std::string text;
    std::vector<v1::PositionLogprobs> logprobs;
    v1::FinishReason finish_reason = v1::FINISH_REASON_UNSPECIFIED;
  };

  const BatchAsk& ask_;
  std::string request_id_;
  std::string model_;
  std::vector<Choice> choices_;
  int64_t finished_ = 0;
  std::optional<v1::Usage> usage_;
  std::optional<v1::Cost> cost_;
  double logprob_sum_ = 0;
  int64_t logprobs_ = 0;
};

// The output's line where there is no answer: `status` says why.
std::string BatchErrorLine(const std::string& id, const std::string& custom_id,
                           const absl::Status& status);

}  // namespace tuppence
