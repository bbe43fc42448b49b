// Turns chat messages into a prompt: special tokens and the texts between them. Holds the published
// Phi-3 templates as data, recognised by the checkpoint's own Jinja text; no template language runs
// here. What a user wrote only ever lands in text parts, so it cannot forge a role.
#pragma once

#include <cstddef>
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

// One published template: its name for --chat-template, its Jinja text, and the same in words.
struct ChatTemplateRules {
  enum class SystemMessage {
    kShown,
    kShownIfNotEmpty,
    kRefused,  // the published template drops it without a word; we do not
  };
  enum class AnswerHeader {
    kIfAsked,              // when a generation prompt is asked for
    kUnlessAfterAnswer,    // the same, but not after a closing assistant message
    kWithEachUserMessage,  // asked for or not; assistant messages bring none of their own
  };

  std::string_view name;
  std::string_view source;
  bool bos = false;
  SystemMessage system = SystemMessage::kShown;
  AnswerHeader answer_header = AnswerHeader::kIfAsked;
  bool end_of_text = false;  // closes the chat when no generation prompt is asked for
};

class ChatTemplate {
 public:
  // The template whose text the checkpoint has; an unknown text, or none, is an error that names
  // the flag --chat-template. Differences of layout inside {{ }} and {% %} do not count.
  static absl::StatusOr<ChatTemplate> Recognise(const Tokenizer& tokenizer);
  // The template called `name`, one of Names(), whatever text the checkpoint has.
  static absl::StatusOr<ChatTemplate> Named(std::string_view name, const Tokenizer& tokenizer);

  // INVALID_ARGUMENT for a chat that the template cannot express: no message at all, or a system
  // message where the published template has none.
  absl::StatusOr<std::vector<PromptPart>> Render(std::span<const ChatMessage> messages,
                                                 bool add_generation_prompt = true) const;

  int32_t end_id() const { return end_id_; }  // <|end|>, which joins the stop ids
  std::string_view name() const { return rules_->name; }
  static std::span<const std::string_view> Names();

  // Upper bound of the tokens that the template adds to the bytes of `messages` messages.
  int64_t overhead_tokens(size_t messages) const;

 private:
  static absl::StatusOr<ChatTemplate> Make(const ChatTemplateRules& rules,
                                           const Tokenizer& tokenizer);
  int32_t RoleId(Role role) const;

  const ChatTemplateRules* rules_ = nullptr;  // static
  int32_t bos_id_ = -1;                       // -1: this template and the next need none
  int32_t end_of_text_id_ = -1;
  int32_t end_id_ = -1;
  int32_t system_id_ = -1;
  int32_t user_id_ = -1;
  int32_t assistant_id_ = -1;
};

}  // namespace tuppence
