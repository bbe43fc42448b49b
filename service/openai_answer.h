// openai_answer: what the engine delivers, as OpenAI's objects: the events of a stream as they
// come, or one object at the end; with usage and cost. Pure: bytes for http_answer to write.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "nlohmann/json.hpp"
#include "scheduler/request.h"
#include "scheduler/token_stream.h"
#include "service/openai_request.h"
#include "service/served_model.h"

namespace tuppence {

// What every object of one answer begins with, and what it shows.
struct AnswerHead {
  OpenAiKind kind = OpenAiKind::kChat;
  std::string request_id = {};
  int64_t created_unix_seconds = 0;
  std::string model = {};
  std::string arithmetic_id = {};
  // What a token adds to the text, for log-probabilities; "" where that is not known.
  std::function<std::string_view(int32_t token_id)> token_bytes = nullptr;
  bool stream = false;
  bool include_usage = false;  // of a stream
  bool token_ids = false;      // beside the text
};

// The beginning of whatever the served model answers; `model` outlives it.
AnswerHead HeadOf(const ServedModel& model);

// What was booked for a request, as JSON: OpenAI's counts, and our cost and times beside them.
std::string UsageObject(const RequestEnd& end);

class AnswerWriter {
 public:
  AnswerWriter(const AnswerHead& head, int32_t choices);

  // Events of what has come; "" when there is nothing to show.
  std::string Events(const StreamDelta& delta);
  // The last events: usage where it was asked for and [DONE]; or, where the answer failed, the
  // error.
  std::string LastEvents(const RequestEnd& end) const;

  // The same for an answer in one piece.
  void Gather(const StreamDelta& delta);
  std::string Whole(const RequestEnd& end) const;

 private:
  struct Choice {
    std::string text;                 // gathered
    std::vector<int32_t> token_ids;   // gathered, where they are wanted
    nlohmann::ordered_json logprobs;  // gathered; null where none are wanted
    FinishReason finish_reason = FinishReason::kNone;
    bool begun = false;       // its role was told
    int64_t text_offset = 0;  // of its tokens so far, in bytes
  };

  nlohmann::ordered_json LogprobsOf(const ChoiceDelta& delta, Choice* choice) const;
  std::string Event(const std::string& choices, const std::string& usage) const;

  const AnswerHead head_;
  std::string prefix_;  // of every object, up to its choices
  std::vector<Choice> choices_;
};

}  // namespace tuppence
