#include "service/batch_line.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "model/strict_json.h"
#include "scheduler/refusal.h"
#include "service/convert.h"
#include "service/json_reader.h"
#include "service/openai_errors.h"
#include "service/openai_request.h"
#include "service/rpc_status.h"

namespace tuppence {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array<std::string_view, 6> kLineFields = {
    "custom_id", "method", "url", "body", "expected", "reference_answer"};

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

// Where what is unknown is refused, a line's own fields are too: a mistyped "expected" would go
// unseen.
void CheckNames(const nlohmann::json& line, std::vector<FieldViolation>* violations) {
  JsonReader read(violations);
  read.strict = true;
  for (const auto& [name, value] : line.items()) {
    if (std::find(kLineFields.begin(), kLineFields.end(), name) == kLineFields.end()) {
      read.Unknown(name);
    }
  }
}

absl::Status CheckPlace(const nlohmann::json& line, const std::string& wanted_url, bool* is_chat) {
  if (const auto method = TextOf(line, "method"); method.has_value() && *method != "POST") {
    return Malformed(absl::StrCat("method is ", ShowJson(*method), "; POST is what there is"));
  }
  const std::string url = TextOf(line, "url").value_or("");
  *is_chat = url == "/v1/chat/completions";
  const bool known = *is_chat || url == "/v1/completions";
  if (known && (wanted_url.empty() || url == wanted_url)) return absl::OkStatus();
  return Malformed(
      absl::StrCat("url is ", ShowJson(line.value("url", nlohmann::json())), "; allowed is ",
                   wanted_url.empty() ? "/v1/chat/completions or /v1/completions"
                                      : absl::StrCat(wanted_url, ", the batch's endpoint")));
}

}  // namespace

absl::StatusOr<BatchAsk> ReadBatchLine(const BatchLine& line, const BatchReading& reading) {
  if (line.too_long) {
    return Malformed(
        absl::StrCat("the line has more than ", kBatchLineBytesMax, " bytes; shorten it"));
  }
  const absl::StatusOr<nlohmann::json> json = ParseStrictJson(line.text);
  if (!json.ok()) return Malformed(absl::StrCat("the line: ", json.status().message()));
  if (!json->is_object()) return Malformed("the line is no JSON object");
  BatchAsk ask;
  if (absl::Status place = CheckPlace(*json, reading.url, &ask.is_chat); !place.ok()) return place;
  const auto body = json->find("body");
  if (body == json->end() || !body->is_object()) return Malformed("the line has no body {...}");
  OpenAiAsk asked = ReadOpenAiObject(ask.is_chat ? OpenAiKind::kChat : OpenAiKind::kCompletion,
                                     *body, reading.limits);
  if (asked.stream) {
    asked.ask.violations.push_back({"stream", "is true; a batch's answers come whole"});
  }
  if (reading.limits.strict) CheckNames(*json, &asked.ask.violations);
  if (!asked.ask.violations.empty()) return InvalidFields(asked.ask.violations);
  ask.ask = std::move(asked.ask);
  ask.custom_id = TextOf(*json, "custom_id").value_or("");
  ask.expected = TextOf(*json, "expected");
  ask.reference_answer = TextOf(*json, "reference_answer");
  SamplingParams& sampling = ask.ask.sampling;
  ask.shows_logprobs = sampling.logprobs || sampling.top_logprobs > 0;
  sampling.logprobs = true;
  ask.ask.priority_class = PriorityClass::kBatch;
  return ask;
}

BatchAnswer::BatchAnswer(const BatchAsk& ask) : ask_(ask) {}

void BatchAnswer::Begin(AnswerHead head) {
  head.kind = ask_.is_chat ? OpenAiKind::kChat : OpenAiKind::kCompletion;
  request_id_ = head.request_id;
  writer_.emplace(std::move(head), ask_.ask.sampling.choices);
}

void BatchAnswer::Add(StreamDelta delta) {
  delta.choices.resize(static_cast<size_t>(ask_.ask.sampling.choices));
  for (ChoiceDelta& choice : delta.choices) {
    for (const PositionLogprobs& position : choice.logprobs)
      logprob_sum_ += position.chosen.logprob;
    logprobs_ += static_cast<int64_t>(choice.logprobs.size());
    if (!ask_.shows_logprobs) choice.logprobs.clear();
    finished_ += choice.finish_reason != FinishReason::kNone;
  }
  text_ += delta.choices[0].text;
  if (writer_.has_value()) writer_->Gather(delta);
  if (delta.end.has_value()) end_ = std::move(delta.end);
}

void BatchAnswer::SetEnd(const Usage& usage, const Cost& cost) {
  RequestEnd& end = end_.has_value() ? *end_ : end_.emplace();
  end.usage = usage;
  end.cost = cost;
}

std::string BatchAnswer::Line(const std::string& id,
                              const std::optional<ReferencePrice>& reference) const {
  RequestEnd end = *end_;
  if (!end.cost.has_reference && reference.has_value()) {
    end.cost.has_reference = true;
    end.cost.reference_nanousd = reference->NanoUsd(
        end.usage.prompt_tokens, end.usage.cached_tokens, end.usage.completion_tokens);
    end.cost.reference_id = reference->id();
  }
  Json line = {{"id", id},
               {"custom_id", ask_.custom_id},
               {"response",
                {{"status_code", 200},
                 {"request_id", request_id_},
                 {"body", Json::parse(writer_->Whole(end))}}},
               {"error", nullptr},
               {"mean_logprob",
                logprobs_ > 0 ? Json(logprob_sum_ / static_cast<double>(logprobs_)) : Json()}};
  if (ask_.expected.has_value()) {
    line["expected"] = *ask_.expected;
    line["exact_match"] = SameText(text_, *ask_.expected);
  }
  if (ask_.reference_answer.has_value()) {
    line["answer"] = text_;
    line["reference_answer"] = *ask_.reference_answer;
  }
  return Dump(line);
}

std::string BatchLineId(const std::string& job_id, int64_t line_number) {
  return absl::StrCat("batch_req_", job_id, "_", line_number);
}

std::string BatchErrorLine(const std::string& id, const std::string& custom_id,
                           const absl::Status& status, const RequestEnd* end) {
  // The client puts the details below the message, a line each.
  const absl::string_view text = status.message();
  absl::Status told(status.code(), text.substr(0, text.find('\n')));
  status.ForEachPayload(
      [&told](absl::string_view url, const absl::Cord& payload) { told.SetPayload(url, payload); });
  const Json error = Json::parse(ErrorObject(told));
  Json body = {{"error", error}};
  if (end != nullptr) body["usage"] = Json::parse(UsageObject(*end));
  const Json line = {{"id", id},
                     {"custom_id", custom_id.empty() ? Json() : Json(custom_id)},
                     {"response", {{"status_code", HttpStatusOf(told)}, {"body", std::move(body)}}},
                     {"error", error}};
  return Dump(line);
}

std::string BatchExpiredLine(const std::string& id, const std::string& custom_id) {
  const Json line = {
      {"id", id},
      {"custom_id", custom_id.empty() ? Json() : Json(custom_id)},
      {"response", nullptr},
      {"error",
       {{"code", "batch_expired"},
        {"message",
         "the batch's completion window ended before this line was asked; send it again in another "
         "batch"}}}};
  return Dump(line);
}

}  // namespace tuppence
