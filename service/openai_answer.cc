#include "service/openai_answer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/utf8.h"
#include "service/convert.h"
#include "service/openai_errors.h"

namespace tuppence {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kLogprobLowest = -9999;  // JSON has no infinity
constexpr double kUsdPerNanoUsd = 1e-9;
constexpr double kSecondsPerNs = 1e-9;

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

double Finite(float logprob) { return std::max<double>(logprob, kLogprobLowest); }

std::string TokenText(std::string_view bytes) {
  std::string text;
  AppendValidUtf8(bytes, &text);
  return text;
}

using TokenBytes = std::function<std::string_view(int32_t token_id)>;

Json ChatLogprob(const TokenLogprob& token, const TokenBytes& bytes_of) {
  const std::string_view bytes = bytes_of(token.token_id);
  Json numbers = Json::array();
  for (const char byte : bytes) numbers.push_back(static_cast<uint8_t>(byte));
  return {{"token", TokenText(bytes)},
          {"logprob", Finite(token.logprob)},
          {"bytes", std::move(numbers)}};
}

// One object for each position.
Json ChatLogprobs(const std::vector<PositionLogprobs>& positions, const TokenBytes& bytes_of) {
  Json content = Json::array();
  for (const PositionLogprobs& position : positions) {
    Json entry = ChatLogprob(position.chosen, bytes_of);
    Json& top = entry["top_logprobs"] = Json::array();
    for (const TokenLogprob& token : position.top) top.push_back(ChatLogprob(token, bytes_of));
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

// One list for each property.
Json CompletionLogprobs(const std::vector<PositionLogprobs>& positions, const TokenBytes& bytes_of,
                        int64_t* text_offset) {
  Json tokens = Json::array(), logprobs = Json::array(), tops = Json::array(),
       offsets = Json::array();
  for (const PositionLogprobs& position : positions) {
    const std::string_view bytes = bytes_of(position.chosen.token_id);
    tokens.push_back(TokenText(bytes));
    logprobs.push_back(Finite(position.chosen.logprob));
    Json top = Json::object();
    for (const TokenLogprob& token : position.top) {
      top[TokenText(bytes_of(token.token_id))] = Finite(token.logprob);
    }
    tops.push_back(std::move(top));
    offsets.push_back(*text_offset);
    *text_offset += static_cast<int64_t>(bytes.size());
  }
  return {{"tokens", std::move(tokens)},
          {"token_logprobs", std::move(logprobs)},
          {"top_logprobs", std::move(tops)},
          {"text_offset", std::move(offsets)}};
}

// Appends the lists of `from` to those of *into.
void AppendLists(Json from, Json* into) {
  if (into->is_null()) {
    *into = std::move(from);
    return;
  }
  for (auto& [name, value] : from.items()) {
    if (!value.is_array()) continue;
    for (Json& entry : value) (*into)[name].push_back(std::move(entry));
  }
}

Json CostDetails(const Cost& cost) {
  Json details = {{"machine_ns", cost.machine_ns}, {"shared_ns", cost.shared_ns},
                  {"own_ns", cost.own_ns},         {"prefill_ns", cost.prefill_ns},
                  {"decode_ns", cost.decode_ns},   {"rate_card_id", cost.rate_card_id}};
  if (cost.unrecorded) details["unrecorded"] = true;
  if (cost.written_off) details["written_off"] = true;
  if (!cost.replay_of.empty()) details["replay_of"] = cost.replay_of;
  if (cost.has_reference) {
    details["reference_cost"] = kUsdPerNanoUsd * cost.reference_nanousd;
    details["reference_nanousd"] = cost.reference_nanousd;
    details["reference_id"] = cost.reference_id;
  }
  return details;
}

Json TimeDetails(const Usage& usage) {
  return {{"queue_seconds", kSecondsPerNs * usage.queue_ns},
          {"prefill_seconds", kSecondsPerNs * usage.prefill_ns},
          {"decode_seconds", kSecondsPerNs * usage.decode_ns},
          {"total_seconds", kSecondsPerNs * usage.total_ns},
          {"time_to_first_token_seconds", kSecondsPerNs * usage.time_to_first_token_ns},
          {"steps", usage.steps},
          {"preemptions", usage.preemptions},
          {"mean_requests_per_step", usage.mean_requests_per_step}};
}

Json UsageJson(const RequestEnd& end) {
  const Usage& usage = end.usage;
  const Cost& cost = end.cost;
  Json json = {{"prompt_tokens", usage.prompt_tokens},
               {"completion_tokens", usage.completion_tokens},
               {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
               {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}},
               {"completion_tokens_details", {{"reasoning_tokens", 0}}},
               {"cost", cost.has_rate ? Json(kUsdPerNanoUsd * cost.cost_nanousd) : Json()},
               {"cost_nanousd", cost.has_rate ? Json(cost.cost_nanousd) : Json()},
               {"cost_details", CostDetails(cost)},
               {"time_details", TimeDetails(usage)}};
  if (usage.energy_joules > 0) json["energy_joules"] = usage.energy_joules;
  return json;
}

std::string Finish(FinishReason reason) {
  return reason == FinishReason::kNone ? "null" : absl::StrCat("\"", NameOf(reason), "\"");
}

std::string TokenIds(bool wanted, const std::vector<int32_t>& ids) {
  return wanted ? absl::StrCat(",\"token_ids\":[", absl::StrJoin(ids, ","), "]") : "";
}

bool Failed(const RequestEnd& end) { return !end.status.ok(); }

}  // namespace

std::string UsageObject(const RequestEnd& end) { return Dump(UsageJson(end)); }

AnswerHead HeadOf(const ServedModel& model) {
  return {.model = model.name,
          .arithmetic_id = model.arithmetic_id,
          .token_bytes = [tokenizer = model.tokenizer.get()](int32_t token_id) {
            return tokenizer == nullptr ? std::string_view() : tokenizer->TokenBytes(token_id);
          }};
}

AnswerWriter::AnswerWriter(const AnswerHead& head, int32_t choices)
    : head_(head), choices_(choices) {
  const bool chat = head.kind == OpenAiKind::kChat;
  const char* object = !chat         ? "text_completion"
                       : head.stream ? "chat.completion.chunk"
                                     : "chat.completion";
  Json common = {{"id", absl::StrCat(chat ? "chatcmpl-" : "cmpl-", head.request_id)},
                 {"object", object},
                 {"created", head.created_unix_seconds},
                 {"model", head.model},
                 // Equal ones promise equal bits, which is what OpenAI's is for.
                 {"system_fingerprint", absl::StrCat("fp_", head.arithmetic_id)}};
  prefix_ = Dump(common);
  prefix_.back() = ',';
  prefix_ += "\"choices\":[";
}

Json AnswerWriter::LogprobsOf(const ChoiceDelta& delta, Choice* choice) const {
  if (delta.logprobs.empty()) return {};
  return head_.kind == OpenAiKind::kChat
             ? ChatLogprobs(delta.logprobs, head_.token_bytes)
             : CompletionLogprobs(delta.logprobs, head_.token_bytes, &choice->text_offset);
}

// Put together by hand around the one part that needs escaping: a stream has an event for each
// token, and a tree of JSON values for each would cost more than the rest of the door.
std::string AnswerWriter::Event(const std::string& choices, const std::string& usage) const {
  return absl::StrCat("data: ", prefix_, choices, "]", usage.empty() ? "" : ",\"usage\":", usage,
                      "}\n\n");
}

std::string AnswerWriter::Events(const StreamDelta& delta) {
  std::string events;
  const bool failed = delta.end.has_value() && Failed(*delta.end);
  for (size_t i = 0; i < delta.choices.size(); ++i) {
    const ChoiceDelta& from = delta.choices[i];
    Choice& choice = choices_[i];
    const FinishReason finish = failed ? FinishReason::kNone : from.finish_reason;
    const bool has_ids = head_.token_ids && !from.token_ids.empty();
    if (from.text.empty() && from.logprobs.empty() && !has_ids && finish == FinishReason::kNone) {
      continue;
    }
    const std::string text = Dump(Json(from.text));
    const std::string shown =
        head_.kind != OpenAiKind::kChat ? absl::StrCat("\"text\":", text)
        : choice.begun                  ? absl::StrCat("\"delta\":{\"content\":", text, "}")
                       : absl::StrCat("\"delta\":{\"role\":\"assistant\",\"content\":", text, "}");
    choice.begun = true;
    const std::string json = absl::StrCat(
        "{\"index\":", i, ",", shown, ",\"logprobs\":", Dump(LogprobsOf(from, &choice)),
        TokenIds(head_.token_ids, from.token_ids), ",\"finish_reason\":", Finish(finish), "}");
    events += Event(json, head_.include_usage ? "null" : "");
  }
  return events;
}

std::string AnswerWriter::LastEvents(const RequestEnd& end) const {
  const std::string usage = UsageObject(end);
  if (Failed(end)) {
    return absl::StrCat("data: {\"error\":", ErrorObject(end.status), ",\"usage\":", usage,
                        "}\n\n");
  }
  return absl::StrCat(head_.include_usage ? Event("", usage) : "", "data: [DONE]\n\n");
}

void AnswerWriter::Gather(const StreamDelta& delta) {
  for (size_t i = 0; i < delta.choices.size(); ++i) {
    const ChoiceDelta& from = delta.choices[i];
    Choice& choice = choices_[i];
    choice.text += from.text;
    if (head_.token_ids) {
      choice.token_ids.insert(choice.token_ids.end(), from.token_ids.begin(), from.token_ids.end());
    }
    if (!from.logprobs.empty()) AppendLists(LogprobsOf(from, &choice), &choice.logprobs);
    if (from.finish_reason != FinishReason::kNone) choice.finish_reason = from.finish_reason;
  }
}

std::string AnswerWriter::Whole(const RequestEnd& end) const {
  std::string choices;
  for (size_t i = 0; i < choices_.size(); ++i) {
    const Choice& choice = choices_[i];
    const std::string text = Dump(Json(choice.text));
    const std::string shown =
        head_.kind != OpenAiKind::kChat
            ? absl::StrCat("\"text\":", text)
            : absl::StrCat("\"message\":{\"role\":\"assistant\",\"content\":", text,
                           ",\"refusal\":null}");
    absl::StrAppend(&choices, i == 0 ? "" : ",", "{\"index\":", i, ",", shown,
                    ",\"logprobs\":", Dump(choice.logprobs),
                    TokenIds(head_.token_ids, choice.token_ids),
                    ",\"finish_reason\":", Finish(choice.finish_reason), "}");
  }
  return absl::StrCat(prefix_, choices, "],\"usage\":", UsageObject(end), "}");
}

}  // namespace tuppence
