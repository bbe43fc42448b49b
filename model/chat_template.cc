// See chat_template.h.
#include "model/chat_template.h"

#include <array>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "model/check.h"

namespace tuppence {
namespace {

using System = ChatTemplateRules::SystemMessage;
using AnswerHeader = ChatTemplateRules::AnswerHeader;

// The templates as their checkpoints' tokenizer_config.json have them.
constexpr std::string_view kMini =
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') %}{{'<|user|>' "
    "+ "
    "'\\n' + message['content'] + '<|end|>' + '\\n' + '<|assistant|>' + '\\n'}}{% elif "
    "(message['role'] == 'assistant') %}{{message['content'] + '<|end|>' + '\\n'}}{% endif %}"
    "{% endfor %}";

constexpr std::string_view kMedium =
    "{% for message in messages %}{% if (message['role'] == 'user') %}{{'<|user|>' + '\\n' + "
    "message['content'] + '<|end|>' + '\\n' + '<|assistant|>' + '\\n'}}{% elif (message['role'] == "
    "'assistant') %}{{message['content'] + '<|end|>' + '\\n'}}{% endif %}{% endfor %}";

constexpr std::string_view kSmall =
    "{{ bos_token }}{% for message in messages %}{{'<|' + message['role'] + '|>' + '\\n' + "
    "message['content'] + '<|end|>\\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}";

constexpr std::string_view kVision =
    "{% for message in messages %}{{'<|' + message['role'] + '|>' + '\\n' + message['content'] + "
    "'<|end|>\\n' }}{% endfor %}{% if add_generation_prompt and messages[-1]['role'] != "
    "'assistant' "
    "%}{{- '<|assistant|>\\n' -}}{% endif %}";

constexpr std::string_view kMini2 =
    "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\\n' + "
    "message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\\n' + "
    "message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}";

constexpr std::string_view k35 =
    "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}"
    "{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'user' %}"
    "{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}";

constexpr std::array<ChatTemplateRules, 6> kTemplates = {{
    // Phi-3-mini's of April 2024: no system message, bos in front.
    {"phi-3-mini", kMini, true, System::kRefused, AnswerHeader::kWithEachUserMessage, false},
    // Phi-3-medium's: the same without bos.
    {"phi-3-medium", kMedium, false, System::kRefused, AnswerHeader::kWithEachUserMessage, false},
    // Phi-3-small's: one header for every role, bos in front.
    {"phi-3-small", kSmall, true, System::kShown, AnswerHeader::kIfAsked, true},
    // Phi-3-vision's: one header for every role.
    {"phi-3-vision", kVision, false, System::kShown, AnswerHeader::kUnlessAfterAnswer, false},
    // Phi-3-mini's since July 2024.
    {"phi-3-mini-2024-07", kMini2, false, System::kShown, AnswerHeader::kIfAsked, true},
    {"phi-3.5", k35, false, System::kShownIfNotEmpty, AnswerHeader::kIfAsked, true},
}};

constexpr auto kNames = [] {
  std::array<std::string_view, kTemplates.size()> names;
  for (size_t i = 0; i < names.size(); ++i) names[i] = kTemplates[i].name;
  return names;
}();

std::string NameList() {
  std::string list;
  for (const std::string_view name : kNames) {
    absl::StrAppend(&list, list.empty() ? "" : ", ", std::string(name));
  }
  return list;
}

// A template's text without what cannot change its meaning: spaces inside {{ }} and {% %} but
// outside quotes, the kind of quotes, parentheses, a real newline for "\n", and "+" between two
// quoted texts.
std::string Normal(std::string_view source) {
  std::string normal;
  bool in_tag = false;
  char quote = 0;
  for (size_t i = 0; i < source.size(); ++i) {
    const char c = source[i];
    const char next = i + 1 < source.size() ? source[i + 1] : 0;
    if (quote != 0) {
      if (c == quote) quote = 0;
      if (c == '\n') normal += "\\n";
      if (c != '\n') normal += quote == 0 ? '\'' : c;
    } else if (!in_tag) {
      in_tag = c == '{' && (next == '{' || next == '%');
      normal += c;
    } else if (c == '\'' || c == '"') {
      quote = c;
      // 'a' + 'b' is 'ab': drop the closing quote and the plus, and do not open again.
      if (normal.ends_with("'+")) {
        normal.resize(normal.size() - 2);
      } else {
        normal += '\'';
      }
    } else {
      if ((c == '}' || c == '%') && next == '}') in_tag = false;
      if (c != ' ' && c != '\n' && c != '(' && c != ')') normal += c;
    }
  }
  while (normal.ends_with('\n') || normal.ends_with(' ')) normal.pop_back();
  return normal;
}

}  // namespace

std::span<const std::string_view> ChatTemplate::Names() { return kNames; }

absl::StatusOr<ChatTemplate> ChatTemplate::Recognise(const Tokenizer& tokenizer) {
  const std::string& source = tokenizer.chat_template_source();
  const std::string normal = Normal(source);
  for (const ChatTemplateRules& rules : kTemplates) {
    if (!source.empty() && normal == Normal(rules.source)) return Make(rules, tokenizer);
  }
  return absl::UnimplementedError(absl::StrCat(
      source.empty() ? "the checkpoint has no chat template"
                     : "the checkpoint's chat template is none of the published Phi-3 ones",
      "; choose one with --chat-template (", NameList(),
      "), or send prompts as text or token ids instead of chat messages"));
}

absl::StatusOr<ChatTemplate> ChatTemplate::Named(std::string_view name,
                                                 const Tokenizer& tokenizer) {
  for (const ChatTemplateRules& rules : kTemplates) {
    if (rules.name == name) return Make(rules, tokenizer);
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown chat template \"", std::string(name),
                                                 "\"; --chat-template takes one of ", NameList()));
}

absl::StatusOr<ChatTemplate> ChatTemplate::Make(const ChatTemplateRules& rules,
                                                const Tokenizer& tokenizer) {
  ChatTemplate chat;
  chat.rules_ = &rules;
  std::string missing;
  const auto find = [&](const char* content) {
    const std::optional<int32_t> id = tokenizer.FindSpecial(content);
    if (!id.has_value()) absl::StrAppend(&missing, missing.empty() ? "" : ", ", content);
    return id.value_or(-1);
  };
  chat.user_id_ = find("<|user|>");
  chat.assistant_id_ = find("<|assistant|>");
  chat.end_id_ = find("<|end|>");
  if (rules.system != System::kRefused) chat.system_id_ = find("<|system|>");
  if (rules.bos) {
    if (!tokenizer.bos_id().has_value()) absl::StrAppend(&missing, " bos_token");
    chat.bos_id_ = tokenizer.bos_id().value_or(-1);
  }
  if (rules.end_of_text) {
    if (!tokenizer.eos_id().has_value()) absl::StrAppend(&missing, " eos_token");
    chat.end_of_text_id_ = tokenizer.eos_id().value_or(-1);
  }
  if (missing.empty()) return chat;
  return absl::InvalidArgumentError(
      absl::StrCat("the chat template ", std::string(rules.name), " needs special tokens that the ",
                   "tokenizer does not have: ", missing, "; choose another with --chat-template (",
                   NameList(), "), or take the tokenizer files of the checkpoint's own revision"));
}

int32_t ChatTemplate::RoleId(Role role) const {
  switch (role) {
    case Role::kSystem:
      return system_id_;
    case Role::kUser:
      return user_id_;
    case Role::kAssistant:
      return assistant_id_;
  }
  CHECK(false);
}

absl::StatusOr<std::vector<PromptPart>> ChatTemplate::Render(std::span<const ChatMessage> messages,
                                                             bool add_generation_prompt) const {
  if (messages.empty()) {
    return absl::InvalidArgumentError("the chat has no messages; send at least one");
  }
  const bool header_with_user = rules_->answer_header == AnswerHeader::kWithEachUserMessage;
  std::vector<PromptPart> parts;
  const auto header = [&](Role role) { parts.push_back({RoleId(role), ""}); };
  const auto text = [&](std::string content) { parts.push_back({-1, std::move(content)}); };
  if (rules_->bos) parts.push_back({bos_id_, ""});
  for (const ChatMessage& message : messages) {
    if (message.role == Role::kSystem) {
      if (rules_->system == System::kRefused) {
        return absl::InvalidArgumentError(absl::StrCat(
            "the chat has a system message, but the model's chat template ",
            std::string(rules_->name), " has no place for one; put its text in front of the first ",
            "user message, or start the service with another --chat-template"));
      }
      if (rules_->system == System::kShownIfNotEmpty && message.content.empty()) continue;
    }
    if (message.role == Role::kAssistant && header_with_user) {
      text(message.content);
    } else {
      header(message.role);
      text(absl::StrCat("\n", message.content));
    }
    parts.push_back({end_id_, ""});
    text("\n");
    if (message.role == Role::kUser && header_with_user) {
      header(Role::kAssistant);
      text("\n");
    }
  }
  const bool after_answer = messages.back().role == Role::kAssistant;
  const bool asks = add_generation_prompt && !header_with_user &&
                    !(after_answer && rules_->answer_header == AnswerHeader::kUnlessAfterAnswer);
  if (asks) {
    header(Role::kAssistant);
    text("\n");
  } else if (!add_generation_prompt && rules_->end_of_text) {
    parts.push_back({end_of_text_id_, ""});
  }
  return parts;
}

int64_t ChatTemplate::overhead_tokens(size_t messages) const {
  // A message: header, text with its newline and added space (two more than its bytes), end, and
  // the newline after it with its space; phi-3-mini's answer header and newline come with each user
  // message. Around all: bos, and a header with newline or the end of text.
  const int64_t per_message = 1 + 2 + 1 + 2;
  const int64_t answer_header = 1 + 2;
  return static_cast<int64_t>(messages) * (per_message + answer_header) + 1 + answer_header;
}

}  // namespace tuppence
