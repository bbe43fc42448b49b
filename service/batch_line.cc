#include "service/batch_line.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "model/strict_json.h"
#include "model/utf8.h"
#include "scheduler/refusal.h"
#include "service/convert.h"
#include "service/openai_errors.h"
#include "service/openai_request.h"
#include "service/rpc_status.h"

namespace tuppence {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kLogprobLowest = -9999;  // JSON has no infinity
constexpr double kUsdPerNanoUsd = 1e-9;

absl::Status Malformed(const std::string& what) {
  return RefusalStatus(absl::StatusCode::kInvalidArgument, what,
                       Because(reason::kMalformedMessage));
}

std::optional<std::string> TextOf(const nlohmann::json& line, const char* name) {
  const auto found = line.find(name);
  if (found == line.end() || !found->is_string()) return std::nullopt;
  return found->get<std::string>();
}

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

// Answers are compared without the white space around them.
bool SameText(const std::string& a, const std::string& b) {
  return absl::StripAsciiWhitespace(a) == absl::StripAsciiWhitespace(b);
}

absl::Status CheckPlace(const nlohmann::json& line, bool* is_chat) {
  if (const auto method = TextOf(line, "method"); method.has_value() && *method != "POST") {
    return Malformed(absl::StrCat("method is ", ShowJson(*method), "; POST is what there is"));
  }
  const std::string url = TextOf(line, "url").value_or("");
  *is_chat = url == "/v1/chat/completions";
  if (*is_chat || url == "/v1/completions") return absl::OkStatus();
  return Malformed(absl::StrCat("url is ", ShowJson(line.value("url", nlohmann::json())),
                                "; allowed is /v1/chat/completions or /v1/completions"));
}

Json TokenJson(const v1::TokenLogprob& token) {
  Json bytes = Json::array();
  for (const char byte : token.token_bytes()) bytes.push_back(static_cast<uint8_t>(byte));
  return {{"token", token.token_bytes()},
          {"logprob", std::max<double>(token.logprob(), kLogprobLowest)},
          {"bytes", std::move(bytes)}};
}

Json ChatLogprobs(const std::vector<v1::PositionLogprobs>& positions) {
  Json content = Json::array();
  for (const v1::PositionLogprobs& position : positions) {
    Json& token = content.emplace_back(TokenJson(position.chosen()));
    Json& top = token["top_logprobs"] = Json::array();
    for (const v1::TokenLogprob& other : position.top()) top.push_back(TokenJson(other));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

Json CompletionLogprobs(const std::vector<v1::PositionLogprobs>& positions) {
  Json all = {{"tokens", Json::array()},
              {"token_logprobs", Json::array()},
              {"top_logprobs", Json::array()},
              {"text_offset", Json::array()}};
  int64_t offset = 0;
  for (const v1::PositionLogprobs& position : positions) {
    all["tokens"].push_back(position.chosen().token_bytes());
    all["token_logprobs"].push_back(std::max<double>(position.chosen().logprob(), kLogprobLowest));
    Json& top = all["top_logprobs"].emplace_back(Json::object());
    for (const v1::TokenLogprob& other : position.top()) {
      top[other.token_bytes()] = std::max<double>(other.logprob(), kLogprobLowest);
    }
    all["text_offset"].push_back(offset);
    offset += static_cast<int64_t>(position.chosen().token_bytes().size());
  }
  return all;
}

// "stop", "length", ...: the enum's name without its beginning, in lower case.
std::string NameOf(v1::FinishReason reason) {
  return absl::AsciiStrToLower(
      v1::FinishReason_Name(reason).substr(std::string_view("FINISH_REASON_").size()));
}

Json UsageJson(const v1::Usage& usage, const v1::Cost& cost) {
  Json details = {{"machine_ns", cost.machine_ns()}, {"shared_ns", cost.shared_ns()},
                  {"own_ns", cost.own_ns()},         {"prefill_ns", cost.prefill_ns()},
                  {"decode_ns", cost.decode_ns()},   {"rate_card_id", cost.rate_card_id()}};
  if (cost.unrecorded()) details["unrecorded"] = true;
  if (cost.has_reference_nanousd()) {
    details["reference_nanousd"] = cost.reference_nanousd();
    details["reference_id"] = cost.reference_id();
  }
  const bool priced = cost.has_cost_nanousd();
  return {
      {"prompt_tokens", usage.prompt_tokens()},
      {"completion_tokens", usage.completion_tokens()},
      {"total_tokens", usage.prompt_tokens() + usage.completion_tokens()},
      {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens()}}},
      {"cost", priced ? Json(kUsdPerNanoUsd * static_cast<double>(cost.cost_nanousd())) : Json()},
      {"cost_nanousd", priced ? Json(cost.cost_nanousd()) : Json()},
      {"cost_details", std::move(details)}};
}

}  // namespace

absl::StatusOr<BatchAsk> ReadBatchLine(const BatchLine& line) {
  if (line.too_long) {
    return Malformed(
        absl::StrCat("the line has more than ", kBatchLineBytesMax, " bytes; shorten it"));
  }
  const absl::StatusOr<nlohmann::json> json = ParseStrictJson(line.text);
  if (!json.ok()) return Malformed(absl::StrCat("the line: ", json.status().message()));
  if (!json->is_object()) return Malformed("the line is no JSON object");
  BatchAsk ask;
  if (absl::Status place = CheckPlace(*json, &ask.is_chat); !place.ok()) return place;
  const auto body = json->find("body");
  if (body == json->end() || !body->is_object()) return Malformed("the line has no body {...}");
  OpenAiAsk asked = ReadOpenAiObject(ask.is_chat ? OpenAiKind::kChat : OpenAiKind::kCompletion,
                                     *body, CallLimits());
  if (asked.stream) {
    asked.ask.violations.push_back({"stream", "is true; a batch's answers come whole"});
  }
  if (!asked.ask.violations.empty()) return InvalidFields(asked.ask.violations);
  ask.request = ToProto(asked.ask);
  ask.custom_id = TextOf(*json, "custom_id").value_or("");
  ask.expected = TextOf(*json, "expected");
  ask.reference_answer = TextOf(*json, "reference_answer");
  ask.shows_logprobs = ask.request.output().logprobs() || ask.request.output().top_logprobs() > 0;
  ask.request.mutable_output()->set_logprobs(true);
  ask.request.set_priority_class(v1::PRIORITY_CLASS_BATCH);
  return ask;
}

BatchAnswer::BatchAnswer(const BatchAsk& ask)
    : ask_(ask), choices_(std::max(1, ask.request.sampling().n())) {}

void BatchAnswer::Add(const v1::GenerateResponse& message) {
  if (message.has_start()) {
    request_id_ = message.start().request_id();
    model_ = message.start().model();
  }
  for (const v1::Choice& from : message.choices()) {
    if (from.index() < 0 || from.index() >= static_cast<int>(choices_.size())) continue;
    Choice& to = choices_[from.index()];
    to.text += from.text();
    for (const v1::PositionLogprobs& position : from.logprobs()) {
      logprob_sum_ += position.chosen().logprob();
      ++logprobs_;
      if (ask_.shows_logprobs) to.logprobs.push_back(position);
    }
    if (from.finish_reason() == v1::FINISH_REASON_UNSPECIFIED) continue;
    finished_ += to.finish_reason == v1::FINISH_REASON_UNSPECIFIED;
    to.finish_reason = from.finish_reason();
  }
  if (message.has_cost()) SetEnd(message.usage(), message.cost());
}

void BatchAnswer::SetEnd(const v1::Usage& usage, const v1::Cost& cost) {
  usage_ = usage;
  cost_ = cost;
}

std::string BatchAnswer::Line(const std::string& id, int64_t created_unix_seconds,
                              const std::optional<ReferencePrice>& reference) const {
  v1::Cost cost = *cost_;
  if (!cost.has_reference_nanousd() && reference.has_value()) {
    cost.set_reference_nanousd(reference->NanoUsd(usage_->prompt_tokens(), usage_->cached_tokens(),
                                                  usage_->completion_tokens()));
    cost.set_reference_id(reference->id());
  }
  Json choices = Json::array();
  for (size_t i = 0; i < choices_.size(); ++i) {
    const Choice& from = choices_[i];
    Json choice = {{"index", i}};
    if (ask_.is_chat) {
      choice["message"] = {{"role", "assistant"}, {"content", from.text}, {"refusal", nullptr}};
    } else {
      choice["text"] = from.text;
    }
    choice["logprobs"] = !ask_.shows_logprobs ? Json()
                         : ask_.is_chat       ? ChatLogprobs(from.logprobs)
                                              : CompletionLogprobs(from.logprobs);
    choice["finish_reason"] = NameOf(from.finish_reason);
    choices.push_back(std::move(choice));
  }
  const Json body = {{"id", absl::StrCat(ask_.is_chat ? "chatcmpl-" : "cmpl-", request_id_)},
                     {"object", ask_.is_chat ? "chat.completion" : "text_completion"},
                     {"created", created_unix_seconds},
                     {"model", model_},
                     {"choices", std::move(choices)},
                     {"usage", UsageJson(*usage_, cost)}};
  Json line = {{"id", id},
               {"custom_id", ask_.custom_id},
               {"response", {{"status_code", 200}, {"request_id", request_id_}, {"body", body}}},
               {"error", nullptr},
               {"mean_logprob",
                logprobs_ > 0 ? Json(logprob_sum_ / static_cast<double>(logprobs_)) : Json()}};
  const std::string& answer = choices_[0].text;
  if (ask_.expected.has_value()) {
    line["expected"] = *ask_.expected;
    line["exact_match"] = SameText(answer, *ask_.expected);
  }
  if (ask_.reference_answer.has_value()) {
    line["answer"] = answer;
    line["reference_answer"] = *ask_.reference_answer;
  }
  return Dump(line);
}

std::string BatchErrorLine(const std::string& id, const std::string& custom_id,
                           const absl::Status& status) {
  // The client puts the details below the message, a line each.
  const absl::string_view text = status.message();
  absl::Status told(status.code(), text.substr(0, text.find('\n')));
  status.ForEachPayload(
      [&told](absl::string_view url, const absl::Cord& payload) { told.SetPayload(url, payload); });
  const Json error = Json::parse(ErrorObject(told));
  const Json line = {
      {"id", id},
      {"custom_id", custom_id.empty() ? Json() : Json(custom_id)},
      {"response", {{"status_code", HttpStatusOf(told)}, {"body", {{"error", error}}}}},
      {"error", error}};
  return Dump(line);
}

}  // namespace tuppence
