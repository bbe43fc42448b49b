#include "service/openai_messages.h"

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tuppence {
namespace {

using Json = nlohmann::json;

constexpr std::array<std::pair<std::string_view, Role>, 4> kRoles = {
    {{"system", Role::kSystem},
     {"developer", Role::kSystem},
     {"user", Role::kUser},
     {"assistant", Role::kAssistant}}};
// Of a message that an API answered, sent back to us.
constexpr std::array<std::string_view, 4> kWithoutEffect = {"name", "refusal", "annotations",
                                                            "reasoning_content"};
constexpr std::array<std::string_view, 4> kRefused = {"tool_calls", "function_call", "tool_call_id",
                                                      "audio"};

template <typename List>
bool Holds(const List& list, std::string_view name) {
  for (const std::string_view entry : list) {
    if (entry == name) return true;
  }
  return false;
}

Role ReadRole(const Json& message, const std::string& where, JsonReader* read) {
  const auto found = message.find("role");
  for (const auto& [name, role] : kRoles) {
    if (found != message.end() && *found == name) return role;
  }
  const std::string allowed = "\"system\", \"developer\", \"user\" or \"assistant\"";
  if (found == message.end()) {
    read->Refuse(absl::StrCat(where, ".role"), absl::StrCat("is missing; it may be ", allowed));
  } else {
    read->Wrong(*found, absl::StrCat(where, ".role"), allowed);
  }
  return Role::kUser;
}

// The texts of content parts, a line break between two, as they would be pasted by hand.
std::string ReadParts(const Json& parts, const std::string& where, JsonReader* read) {
  std::string all;
  for (size_t i = 0; i < parts.size(); ++i) {
    const std::string place = absl::StrCat(where, "[", i, "]");
    const Json& part = parts[i];
    if (!part.is_object() || !part.contains("type")) {
      read->Wrong(part, place, "a part as {\"type\": \"text\", \"text\": \"...\"}");
      return all;
    }
    if (part["type"] != "text" || !part.contains("text")) {
      read->Wrong(part["type"], absl::StrCat(place, ".type"),
                  "\"text\", with its text: this model reads no images, audio or files, and "
                  "nothing is fetched for it; that alone");
      return all;
    }
    for (const auto& [name, value] : part.items()) {
      if (name != "type" && name != "text") read->Unknown(absl::StrCat(place, ".", name));
    }
    std::string text;
    if (!read->String(part["text"], absl::StrCat(place, ".text"), &text)) return all;
    absl::StrAppend(&all, i == 0 ? "" : "\n", text);
  }
  return all;
}

std::string ReadContent(const Json& message, const std::string& where, JsonReader* read) {
  const std::string place = absl::StrCat(where, ".content");
  const auto content = message.find("content");
  if (content == message.end()) {
    read->Refuse(place, "is missing; give the message's text");
    return "x";  // said once is enough: not empty as well
  }
  if (content->is_array() && !content->empty()) return ReadParts(*content, place, read);
  std::string text = "x";
  if (!content->is_string()) {
    read->Wrong(*content, place, "a text, or a list of parts of type text");
  } else {
    text = content->get<std::string>();
  }
  return text;
}

void CheckFields(const Json& message, const std::string& where, JsonReader* read) {
  for (const auto& [name, value] : message.items()) {
    if (name == "role" || name == "content" || Holds(kWithoutEffect, name)) continue;
    if (!Holds(kRefused, name)) {
      read->Unknown(absl::StrCat(where, ".", name));
    } else if (!value.is_null() && !value.empty()) {
      read->Refuse(absl::StrCat(where, ".", name),
                   "is not supported by this service; leave the message out, or say it in text");
    }
  }
}

}  // namespace

std::vector<ChatMessage> ReadChat(const Json& messages, JsonReader* read) {
  std::vector<ChatMessage> chat;
  if (!messages.is_array()) {
    read->Wrong(messages, "messages", "a list as [{\"role\": \"user\", \"content\": \"...\"}]");
    chat.push_back({Role::kUser, "x"});
    return chat;
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string where = absl::StrCat("messages[", i, "]");
    const Json& message = messages[i];
    if (!message.is_object()) {
      read->Wrong(message, where, "a message as {\"role\": \"user\", \"content\": \"...\"}");
      chat.push_back({Role::kUser, "x"});
      continue;
    }
    const Role role = ReadRole(message, where, read);
    chat.push_back({role, ReadContent(message, where, read)});
    CheckFields(message, where, read);
  }
  return chat;
}

}  // namespace tuppence
