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
#include "service/generation.h"
#include "service/openai_answer.h"
#include "service/reference_price.h"
#include "service/service_parts.h"

namespace tuppence {

struct BatchAsk {
  std::string custom_id;
  bool is_chat = true;          // otherwise a completion
  bool shows_logprobs = false;  // the body asks for them; the mean comes with every answer
  std::optional<std::string> expected;
  std::optional<std::string> reference_answer;
  GenerationAsk ask;
};

// INVALID_ARGUMENT where the line cannot be asked: no JSON, another method or url, a stream, a body
// with wrong fields. Always of priority class batch.
struct BatchReading {
  CallLimits limits = {};
  std::string url = {};  // that every line must have; "": either
};
absl::StatusOr<BatchAsk> ReadBatchLine(const BatchLine& line, const BatchReading& reading = {});

// What comes, piece by piece, until it is a line of the output.
class BatchAnswer {
 public:
  explicit BatchAnswer(const BatchAsk& ask);  // which outlives this

  // Whose answer it is. Before anything is added.
  void Begin(AnswerHead head);
  void Add(StreamDelta delta);
  // What was used and what it cost; for a last message that was lost: from the books.
  void SetEnd(const Usage& usage, const Cost& cost);
  // Each choice has its finish reason: all of the text is there, though the end may be not.
  bool complete() const { return finished_ == ask_.ask.sampling.choices; }
  bool has_end() const { return end_.has_value(); }
  // Also of an answer that broke off. Null: nobody said.
  const RequestEnd* end() const { return end_.has_value() ? &*end_ : nullptr; }
  const std::string& request_id() const { return request_id_; }

  // The output's line; `id` is unique and carries the input line's number. reference: what the
  // answer's tokens would have cost there, if the service does not say. Requires: complete,
  // has_end.
  std::string Line(const std::string& id, const std::optional<ReferencePrice>& reference) const;

 private:
  const BatchAsk& ask_;
  std::string request_id_;
  std::optional<AnswerWriter> writer_;
  std::string text_;  // of the first choice, for what it is compared with
  int64_t finished_ = 0;
  std::optional<RequestEnd> end_;
  double logprob_sum_ = 0;
  int64_t logprobs_ = 0;
};

// By which a line's answer is found again: unique, and ends in the line's number.
std::string BatchLineId(const std::string& job_id, int64_t line_number);

// The output's line where there is no answer: `status` says why. `end`: what was used and what it
// cost all the same; null: nothing.
std::string BatchErrorLine(const std::string& id, const std::string& custom_id,
                           const absl::Status& status, const RequestEnd* end = nullptr);
// The same where its time was up before it was asked.
std::string BatchExpiredLine(const std::string& id, const std::string& custom_id);

}  // namespace tuppence
