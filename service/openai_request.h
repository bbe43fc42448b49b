// openai_request: the body of an OpenAI request to what the service is asked: the only place that
// knows OpenAI's fields, as one table for chat and one for completions. Every field is read,
// accepted without effect, or refused with the reason; a field that is in no table is passed over,
// or refused where the service is strict. Ranges are CheckSamplingParams' business. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "service/generation.h"
#include "service/service_parts.h"

namespace tuppence {

enum class OpenAiKind : uint8_t { kChat, kCompletion, kTokenize, kDetokenize };

struct OpenAiAsk {
  GenerationAsk ask;
  bool stream = false;
  bool include_usage = false;  // of a stream: one more event, with what it used and cost
  bool token_ids = false;      // shown beside the text
  // Of /detokenize.
  std::vector<int32_t> tokens;
};

// INVALID_ARGUMENT where the body is no JSON object as we read it (strict_json), or a field is
// always refused. What is wrong with single fields is in ask.violations, under OpenAI's names.
absl::StatusOr<OpenAiAsk> ReadOpenAi(OpenAiKind kind, std::string_view body,
                                     const CallLimits& limits);
// The same of a body that has been parsed, strictly. Requires: an object.
OpenAiAsk ReadOpenAiObject(OpenAiKind kind, const nlohmann::json& body, const CallLimits& limits);

}  // namespace tuppence
