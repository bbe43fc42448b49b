#include "service/batch_body.h"

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "model/strict_json.h"

namespace tuppence {
namespace {

using Json = nlohmann::json;

// Reads fields of one object and notes what does not fit.
class Fields {
 public:
  Fields(const Json& body, std::vector<FieldViolation>* violations)
      : body_(body), violations_(violations) {}

  // Null is as good as absent.
  const Json* Find(const char* name) const {
    const auto found = body_.find(name);
    return found == body_.end() || found->is_null() ? nullptr : &*found;
  }
  void Refuse(std::string name, std::string why) {
    violations_->push_back({std::move(name), std::move(why)});
  }
  void Wrong(const std::string& name, const Json& value, const char* allowed) {
    Refuse(name, absl::StrCat("is ", ShowJson(value), "; ", allowed, " is expected"));
  }
  std::optional<float> Number(const char* name) {
    const Json* value = Find(name);
    if (value == nullptr) return std::nullopt;
    if (value->is_number()) return value->get<float>();
    Wrong(name, *value, "a number");
    return std::nullopt;
  }
  std::optional<int32_t> Int(const char* name) {
    const Json* value = Find(name);
    return value == nullptr ? std::nullopt : IntOf(name, *value);
  }
  std::optional<int32_t> IntOf(const std::string& name, const Json& value) {
    if (value.is_number_integer() && value >= std::numeric_limits<int32_t>::min() &&
        value <= std::numeric_limits<int32_t>::max()) {
      return value.get<int32_t>();
    }
    Wrong(name, value, "a whole number");
    return std::nullopt;
  }
  bool Bool(const char* name) {
    const Json* value = Find(name);
    if (value == nullptr) return false;
    if (!value->is_boolean()) Wrong(name, *value, "true or false");
    return *value == true;
  }
  // What could be asked for and is not offered.
  void RefuseUnless(const char* name, std::initializer_list<Json> harmless) {
    const Json* value = Find(name);
    if (value == nullptr) return;
    for (const Json& one : harmless) {
      if (*value == one) return;
    }
    Refuse(name, "is not supported by this service; leave it out");
  }

 private:
  const Json& body_;
  std::vector<FieldViolation>* violations_;
};

v1::Role RoleOf(const Json& role) {
  if (role == "system" || role == "developer") return v1::ROLE_SYSTEM;
  if (role == "user") return v1::ROLE_USER;
  return role == "assistant" ? v1::ROLE_ASSISTANT : v1::ROLE_UNSPECIFIED;
}

// A text, or parts of type text, which follow one another.
std::optional<std::string> ContentOf(const Json& content) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array() || content.empty()) return std::nullopt;
  std::string text;
  for (const Json& part : content) {
    if (!part.is_object() || part.value("type", Json()) != "text" || !part.contains("text") ||
        !part["text"].is_string()) {
      return std::nullopt;
    }
    text += part["text"].get<std::string>();
  }
  return text;
}

void ReadMessages(Fields* fields, v1::GenerateRequest* request) {
  const Json* messages = fields->Find("messages");
  if (messages == nullptr || !messages->is_array() || messages->empty()) {
    fields->Wrong("messages", messages == nullptr ? Json() : *messages, "a list of messages");
    return;
  }
  for (size_t i = 0; i < messages->size(); ++i) {
    const Json& message = (*messages)[i];
    const std::string name = absl::StrCat("messages[", i, "]");
    const v1::Role role =
        message.is_object() ? RoleOf(message.value("role", Json())) : v1::ROLE_UNSPECIFIED;
    if (role == v1::ROLE_UNSPECIFIED) {
      fields->Wrong(name + ".role", message.is_object() ? message.value("role", Json()) : message,
                    "system, developer, user or assistant");
      return;
    }
    std::optional<std::string> content = ContentOf(message.value("content", Json()));
    if (!content.has_value()) {
      fields->Wrong(name + ".content", message.value("content", Json()),
                    "a text, or a list of parts of type text,");
      return;
    }
    v1::ChatMessage* to = request->mutable_chat()->add_messages();
    to->set_role(role);
    to->set_content(*std::move(content));
  }
}

void ReadPrompt(Fields* fields, v1::GenerateRequest* request) {
  const Json* prompt = fields->Find("prompt");
  if (prompt != nullptr && prompt->is_array() && prompt->size() == 1 && !(*prompt)[0].is_number()) {
    prompt = &(*prompt)[0];
  }
  if (prompt != nullptr && prompt->is_string()) {
    request->set_text(prompt->get<std::string>());
    return;
  }
  const bool ids =
      prompt != nullptr && prompt->is_array() && !prompt->empty() && (*prompt)[0].is_number();
  if (!ids) {
    fields->Wrong("prompt", prompt == nullptr ? Json() : *prompt, "a text or a list of token ids");
    return;
  }
  for (const Json& id : *prompt) {
    const std::optional<int32_t> number = fields->IntOf("prompt", id);
    if (!number.has_value()) return;
    request->mutable_token_ids()->add_ids(*number);
  }
}

void ReadSeed(Fields* fields, v1::SamplingParams* sampling) {
  const Json* seed = fields->Find("seed");
  if (seed == nullptr) return;
  if (!seed->is_number_integer()) return fields->Wrong("seed", *seed, "a whole number");
  // A negative one stands for its two's complement.
  sampling->set_seed(seed->is_number_unsigned() ? seed->get<uint64_t>()
                                                : static_cast<uint64_t>(seed->get<int64_t>()));
}

void ReadStops(Fields* fields, v1::SamplingParams* sampling) {
  if (const Json* stop = fields->Find("stop"); stop != nullptr) {
    for (const Json& text : stop->is_array() ? *stop : Json::array({*stop})) {
      if (!text.is_string()) return fields->Wrong("stop", text, "a text or a list of texts");
      sampling->add_stop(text.get<std::string>());
    }
  }
  const Json* ids = fields->Find("stop_token_ids");
  if (ids == nullptr) return;
  if (!ids->is_array()) return fields->Wrong("stop_token_ids", *ids, "a list of token ids");
  for (const Json& id : *ids) {
    sampling->add_stop_token_ids(fields->IntOf("stop_token_ids", id).value_or(0));
  }
}

void ReadBiases(Fields* fields, v1::SamplingParams* sampling) {
  const Json* biases = fields->Find("logit_bias");
  if (biases == nullptr) return;
  if (!biases->is_object()) return fields->Wrong("logit_bias", *biases, "an object");
  for (const auto& [key, bias] : biases->items()) {
    int32_t id = 0;
    if (!absl::SimpleAtoi(key, &id) || !bias.is_number()) {
      return fields->Wrong("logit_bias", bias, "a number for each token id");
    }
    (*sampling->mutable_logit_bias())[id] = bias.get<float>();
  }
}

void ReadMaxCost(Fields* fields, v1::GenerateRequest* request) {
  const Json* limit = fields->Find("max_cost_nanousd");
  if (limit == nullptr) return;
  if (!limit->is_number_integer())
    return fields->Wrong("max_cost_nanousd", *limit, "a whole number");
  request->set_max_cost_nanousd(limit->get<int64_t>());
}

// What both kinds have.
void ReadCommon(Fields* fields, v1::GenerateRequest* request) {
  v1::SamplingParams* sampling = request->mutable_sampling();
  if (const auto value = fields->Number("temperature")) sampling->set_temperature(*value);
  if (const auto value = fields->Number("top_p")) sampling->set_top_p(*value);
  if (const auto value = fields->Int("top_k")) sampling->set_top_k(*value);
  if (const auto value = fields->Number("min_p")) sampling->set_min_p(*value);
  if (const auto value = fields->Number("repetition_penalty")) {
    sampling->set_repetition_penalty(*value);
  }
  if (const auto value = fields->Number("presence_penalty")) sampling->set_presence_penalty(*value);
  if (const auto value = fields->Number("frequency_penalty")) {
    sampling->set_frequency_penalty(*value);
  }
  sampling->set_n(fields->Int("n").value_or(1));
  if (const auto value = fields->Int("max_tokens")) sampling->set_max_tokens(*value);
  if (const auto value = fields->Int("max_completion_tokens")) sampling->set_max_tokens(*value);
  if (const auto value = fields->Int("min_tokens")) sampling->set_min_tokens(*value);
  sampling->set_ignore_eos(fields->Bool("ignore_eos"));
  ReadSeed(fields, sampling);
  ReadStops(fields, sampling);
  ReadBiases(fields, sampling);
  ReadMaxCost(fields, request);
  if (const Json* model = fields->Find("model"); model != nullptr) {
    if (!model->is_string()) return fields->Wrong("model", *model, "a text");
    request->set_model(model->get<std::string>());
  }
  if (fields->Bool("stream")) fields->Refuse("stream", "is true; a batch's answers come whole");
  fields->RefuseUnless("echo", {false});
  fields->RefuseUnless("suffix", {""});
  for (const char* name : {"chat_template", "chat_template_kwargs", "kv_transfer_params",
                           "cache_salt", "prompt_embeds"}) {
    fields->RefuseUnless(name, {});
  }
}

}  // namespace

v1::GenerateRequest ReadChatBody(const Json& body, std::vector<FieldViolation>* violations) {
  Fields fields(body, violations);
  v1::GenerateRequest request;
  ReadMessages(&fields, &request);
  ReadCommon(&fields, &request);
  request.mutable_output()->set_logprobs(fields.Bool("logprobs"));
  if (const auto top = fields.Int("top_logprobs")) request.mutable_output()->set_top_logprobs(*top);
  fields.RefuseUnless("tools", {Json::array()});
  fields.RefuseUnless("functions", {Json::array()});
  fields.RefuseUnless("tool_choice", {"none", "auto"});
  fields.RefuseUnless("response_format", {{{"type", "text"}}});
  fields.RefuseUnless("modalities", {Json::array({"text"})});
  fields.RefuseUnless("audio", {});
  return request;
}

v1::GenerateRequest ReadCompletionBody(const Json& body, std::vector<FieldViolation>* violations) {
  Fields fields(body, violations);
  v1::GenerateRequest request;
  ReadPrompt(&fields, &request);
  ReadCommon(&fields, &request);
  if (const auto top = fields.Int("logprobs")) {
    request.mutable_output()->set_logprobs(true);
    request.mutable_output()->set_top_logprobs(*top);
  }
  return request;
}

}  // namespace tuppence
