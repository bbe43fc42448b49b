#include "service/prompt.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "model/utf8.h"
#include "service/rpc_status.h"

namespace tuppence {
namespace {

constexpr size_t kModelNameBytesMax = 256;
constexpr size_t kTokenViolationsMax = 4;  // a prompt of a million bad ids gets four lines, not all
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

// Nothing that a model could answer: no characters, or white space and byte order marks only.
// Requires: valid UTF-8.
bool IsBlank(std::string_view text) {
  while (!text.empty()) {
    if (text.starts_with(kByteOrderMark)) {
      text.remove_prefix(kByteOrderMark.size());
      continue;
    }
    const Utf8Character character = NextUtf8Character(text);
    if (!IsUnicodeSpace(character.codepoint)) return false;
    text.remove_prefix(character.bytes);
  }
  return true;
}

void CheckText(const std::string& field, std::string_view text, bool may_be_blank,
               std::vector<FieldViolation>* violations) {
  if (!IsValidUtf8(text)) {
    violations->push_back({field, "is not valid UTF-8; send text, or token ids for raw bytes"});
  } else if (!may_be_blank && IsBlank(text)) {
    violations->push_back({field, absl::StrCat(text.empty() ? "is empty" : "holds white space only",
                                               "; at least one visible character is needed")});
  }
}

void CheckBytes(int64_t bytes, const std::string& field, const ServedModel& model,
                const CallLimits& limits, std::vector<FieldViolation>* violations) {
  if (bytes <= limits.prompt_bytes_max) return;
  violations->push_back({field, absl::StrCat("has ", bytes, " bytes; at most ",
                                             limits.prompt_bytes_max, " are read for a context of ",
                                             model.context_tokens, " tokens; shorten it")});
}

void CheckChat(const std::vector<ChatMessage>& chat, const ServedModel& model,
               const CallLimits& limits, std::vector<FieldViolation>* violations) {
  if (chat.empty()) {
    violations->push_back({"chat.messages", "is empty; at least one message is needed"});
    return;
  }
  if (static_cast<int64_t>(chat.size()) > limits.messages_max) {
    violations->push_back(
        {"chat.messages", absl::StrCat("has ", chat.size(), " messages; at most ",
                                       limits.messages_max, " are allowed; drop the oldest")});
    return;
  }
  int64_t bytes = 0;
  for (const ChatMessage& message : chat) bytes += static_cast<int64_t>(message.content.size());
  CheckBytes(bytes, "chat", model, limits, violations);
  if (bytes > limits.prompt_bytes_max) return;
  for (size_t i = 0; i < chat.size(); ++i) {
    // An assistant may have answered nothing; a conversation that is sent back must keep that turn.
    CheckText(absl::StrCat("chat.messages[", i, "].content"), chat[i].content,
              chat[i].role == Role::kAssistant, violations);
  }
}

}  // namespace

void CheckTokenIds(const std::vector<int32_t>& ids, const std::string& field,
                   const ServedModel& model, std::vector<FieldViolation>* violations) {
  size_t shown = 0;
  for (size_t i = 0; i < ids.size() && shown < kTokenViolationsMax; ++i) {
    if (model.IsMapped(ids[i])) continue;
    const bool in_range = ids[i] >= 0 && ids[i] < model.vocab;
    violations->push_back(
        {absl::StrCat(field, "[", i, "]"),
         in_range ? absl::StrCat("is ", ids[i],
                                 ", which only pads the vocabulary and stands for nothing; "
                                 "Tokenize gives the ids of a text")
                  : absl::StrCat("is ", ids[i], "; allowed is 0 to ", model.vocab - 1,
                                 "; Tokenize gives the ids of a text")});
    ++shown;
  }
}

void CheckPrompt(const Prompt& prompt, const ServedModel& model, const CallLimits& limits,
                 std::vector<FieldViolation>* violations) {
  switch (prompt.kind) {
    case PromptKind::kNone:
      violations->push_back({"prompt", "is missing; set one of chat, text or token_ids"});
      return;
    case PromptKind::kChat:
      CheckChat(prompt.chat, model, limits, violations);
      return;
    case PromptKind::kText:
      CheckBytes(static_cast<int64_t>(prompt.text.size()), "text", model, limits, violations);
      if (static_cast<int64_t>(prompt.text.size()) <= limits.prompt_bytes_max) {
        CheckText("text", prompt.text, /*may_be_blank=*/false, violations);
      }
      return;
    case PromptKind::kTokenIds:
      if (prompt.token_ids.empty()) {
        violations->push_back({"token_ids.ids", "is empty; at least one token is needed"});
      }
      CheckTokenIds(prompt.token_ids, "token_ids.ids", model, violations);
      return;
  }
}

absl::Status CheckPromptKind(const Prompt& prompt, const ServedModel& model) {
  const bool needs_text = prompt.kind == PromptKind::kChat || prompt.kind == PromptKind::kText;
  if (needs_text && model.tokenizer == nullptr) {
    return RefusalStatus(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("text and chat need a tokenizer, and this model is served without one (",
                     model.tokenizer_missing_why, "); send token_ids and set output.no_text"),
        Because(reason::kNoTokenizer));
  }
  if (prompt.kind == PromptKind::kChat && !model.chat_template.has_value()) {
    return RefusalStatus(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("chat needs a chat template, and this model is served without one (",
                     model.template_missing_why,
                     "); send text or token_ids that hold the whole prompt"),
        Because(reason::kNoChatTemplate));
  }
  return absl::OkStatus();
}

int64_t PromptTokensBound(const Prompt& prompt, const ServedModel& model) {
  switch (prompt.kind) {
    case PromptKind::kNone:
      return 0;
    case PromptKind::kChat: {
      int64_t bound = model.chat_template->overhead_tokens(prompt.chat.size());
      for (const ChatMessage& message : prompt.chat) {
        bound += Tokenizer::TokensUpperBound(static_cast<int64_t>(message.content.size()));
      }
      return bound;
    }
    case PromptKind::kText:
      return Tokenizer::TokensUpperBound(static_cast<int64_t>(prompt.text.size())) + 1;  // bos
    case PromptKind::kTokenIds:
      return static_cast<int64_t>(prompt.token_ids.size());
  }
  return 0;
}

absl::StatusOr<std::vector<int32_t>> TokenisePrompt(Prompt prompt, const ServedModel& model) {
  switch (prompt.kind) {
    case PromptKind::kNone:
      break;
    case PromptKind::kChat: {
      const absl::StatusOr<std::vector<PromptPart>> parts =
          model.chat_template->Render(prompt.chat);
      if (!parts.ok()) {
        return InvalidFields({{"chat.messages", std::string(parts.status().message())}});
      }
      return model.tokenizer->EncodeParts(*parts);
    }
    case PromptKind::kText: {
      std::vector<PromptPart> parts;
      const std::optional<int32_t> bos = model.tokenizer->bos_id();
      if (model.tokenizer->adds_bos() && bos.has_value()) parts.push_back({*bos, ""});
      parts.push_back({-1, std::move(prompt.text)});
      return model.tokenizer->EncodeParts(parts);
    }
    case PromptKind::kTokenIds:
      return std::move(prompt.token_ids);
  }
  return absl::InternalError("a prompt of no kind was tokenised");
}

absl::Status CheckModelName(const std::string& name, const ServedModel& model) {
  if (name.empty() || name == model.name ||
      std::find(model.aliases.begin(), model.aliases.end(), name) != model.aliases.end()) {
    return absl::OkStatus();
  }
  if (name.size() > kModelNameBytesMax) {
    return InvalidFields(
        {{"model", absl::StrCat("has ", name.size(), " bytes; at most ", kModelNameBytesMax,
                                " are allowed; leave it empty for the one model "
                                "that is served")}});
  }
  return RefusalStatus(
      absl::StatusCode::kNotFound,
      absl::StrCat("the model \"", absl::Utf8SafeCEscape(name), "\" is not served here; \"",
                   model.name, "\" is; name that one or leave the field empty"),
      Because(reason::kModelNotFound, {{"served_model", model.name}}));
}

}  // namespace tuppence
