// Prompt: what a caller wants continued, before it is token ids. Checked by size and form first, so
// that admission can reserve an upper bound before the tokeniser does any work.
// Used by generation and token_calls; knows no gRPC. Any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/chat_template.h"
#include "model/sampling_params.h"
#include "service/served_model.h"
#include "service/service_parts.h"

namespace tuppence {

enum class PromptKind : uint8_t { kNone, kChat, kText, kTokenIds };

struct Prompt {
  PromptKind kind = PromptKind::kNone;
  std::vector<ChatMessage> chat;
  std::string text;
  std::vector<int32_t> token_ids;
};

// Everything that can be said without tokenising: presence, sizes, UTF-8, roles, token ids.
void CheckPrompt(const Prompt& prompt, const ServedModel& model, const CallLimits& limits,
                 std::vector<FieldViolation>* violations);

// FAILED_PRECONDITION where this checkpoint cannot take such a prompt: text without a supported
// tokenizer, chat without a known template.
absl::Status CheckPromptKind(const Prompt& prompt, const ServedModel& model);

// At most so many tokens come of it. Requires: both checks have passed.
int64_t PromptTokensBound(const Prompt& prompt, const ServedModel& model);

// The token ids. Text is encoded as it stands, after the beginning-of-text token where the
// checkpoint asks for one. Requires: both checks have passed. Takes the prompt's content.
absl::StatusOr<std::vector<int32_t>> TokenisePrompt(Prompt prompt, const ServedModel& model);

void CheckTokenIds(const std::vector<int32_t>& ids, const std::string& field,
                   const ServedModel& model, std::vector<FieldViolation>* violations);

// NOT_FOUND, or INVALID_ARGUMENT for what cannot be a name; a request names the model or nothing.
absl::Status CheckModelName(const std::string& name, const ServedModel& model);

}  // namespace tuppence
