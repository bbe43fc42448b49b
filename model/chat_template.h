// Turns chat messages into a prompt: special tokens and the texts between them. Holds the published
// Phi-3 templates as code, recognised from the checkpoint's own Jinja text; no template language
// runs here. What a user wrote only ever lands in text parts, so it cannot forge a role.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/tokenizer.h"

namespace tuppence {

enum class Role { kSystem, kUser, kAssistant };
struct ChatMessage {
  Role role;
  std::string content;
};

// The published templates, by the model that brought them. chat_template.cc shows the text of each.
enum class ChatTemplateKind {
  kPhi3Mini,  // "phi-3-mini": user and assistant only; bos in front
  kPhi3,      // "phi-3": the same header for every role; none after a closing assistant message
  kPhi35,     // "phi-3.5": system, user, assistant; end of text when no answer is asked for
};

class ChatTemplate {
 public:
  // The template that the checkpoint's own text is; an unknown text or none is an error that names
  // the flag --chat-template.
  static absl::StatusOr<ChatTemplate> Recognise(const Tokenizer& tokenizer);
  // The template called `name`, one of Names().
  static absl::StatusOr<ChatTemplate> Named(std::string_view name, const Tokenizer& tokenizer);

  // INVALID_ARGUMENT for a chat that the template cannot express: no messages, or, for phi-3-mini,
  // a system message, which the published template drops without a word.
  absl::StatusOr<std::vector<PromptPart>> Render(std::span<const ChatMessage> messages,
                                                 bool add_generation_prompt = true) const;

  int32_t end_id() const { return end_id_; }  // <|end|>, which joins the stop ids
  ChatTemplateKind kind() const { return kind_; }
  std::string_view name() const;
  static std::span<const std::string_view> Names();

  // Upper bound of the tokens that the template adds to those of the messages' own bytes (their
  // sum, one token for each byte).
  int64_t overhead_tokens(size_t messages) const;

 private:
  static absl::StatusOr<ChatTemplate> Make(ChatTemplateKind kind, bool starts_with_bos,
                                           const Tokenizer& tokenizer);
  int32_t RoleId(Role role) const;

  ChatTemplateKind kind_ = ChatTemplateKind::kPhi35;
  int32_t bos_id_ = -1;  // below 0: the template has no bos
  int32_t end_of_text_id_ = -1;
  int32_t end_id_ = -1;
  int32_t system_id_ = -1;
  int32_t user_id_ = -1;
  int32_t assistant_id_ = -1;
};

}  // namespace tuppence
