// openai_messages: the messages of a chat as OpenAI writes them: roles, with developer for system,
// and content as a text or as parts, of which only text is read. Nothing is ever fetched. Used by
// openai_request.
#pragma once

#include <vector>

#include "model/chat_template.h"
#include "service/json_reader.h"

namespace tuppence {

// What does not fit becomes violations of *read, under names as messages[0].content.
std::vector<ChatMessage> ReadChat(const nlohmann::json& messages, JsonReader* read);

}  // namespace tuppence
