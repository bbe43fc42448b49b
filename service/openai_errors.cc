#include "service/openai_errors.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "scheduler/refusal.h"
#include "service/rpc_status.h"

namespace tuppence {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kViolationsShownMax = 4;

// Names of our own API and what the same thing is called here. One that ends in a dot begins a
// field's name; the others are a whole one, with or without an index behind.
constexpr std::array<std::pair<const char*, const char*>, 8> kFieldNames = {{
    {"sampling.include_stop", "include_stop_str_in_output"},
    {"sampling.", ""},
    {"output.", ""},
    {"chat.", ""},
    {"chat", "messages"},
    {"token_ids.ids", "prompt"},
    {"text", "prompt"},
    {"token_ids", "tokens"},
}};

std::string OpenAiField(const std::string& field) {
  for (const auto& [ours, theirs] : kFieldNames) {
    const std::string_view name = ours;
    if (!absl::StartsWith(field, ours)) continue;
    if (name.back() == '.' || field.size() == name.size() || field[name.size()] == '[') {
      return absl::StrCat(theirs, field.substr(name.size()));
    }
  }
  return field;
}

std::string TypeOf(int http_status) {
  switch (http_status) {
    case 403:
      return "permission_error";
    case 429:
      return "rate_limit_error";
    case 503:
      return "overloaded_error";
    case 504:
      return "timeout_error";
    default:
      return http_status >= 500 ? "server_error" : "invalid_request_error";
  }
}

std::optional<std::string> CodeOf(const absl::Status& status, const std::string& reason) {
  if (reason == reason::kContextExceeded) return "context_length_exceeded";
  if (reason == reason::kInvalidFields) return std::nullopt;
  if (status.code() == absl::StatusCode::kUnauthenticated) return "invalid_api_key";
  if (reason == reason::kTenantQueueFull || reason == reason::kRateLimit)
    return "rate_limit_exceeded";
  if (reason == reason::kBudgetSpent || reason == reason::kBudgetHeld) return "insufficient_quota";
  if (reason == reason::kQueueFull) return "overloaded";
  if (reason.empty()) return std::nullopt;
  return absl::AsciiStrToLower(reason);
}

OpenAiError ErrorOf(const absl::Status& status) {
  const std::optional<Refusal> refusal = RefusalOf(status);
  OpenAiError error;
  error.code = CodeOf(status, refusal.has_value() ? refusal->reason : "");
  error.message = std::string(status.message());
  const std::vector<FieldViolation> violations = ViolationsOf(status);
  if (violations.empty()) {
    if (refusal.has_value() && refusal->reason == reason::kModelNotFound) error.param = "model";
    return error;
  }
  error.param = OpenAiField(violations[0].field);
  error.message.clear();
  for (size_t i = 0; i < std::min(violations.size(), kViolationsShownMax); ++i) {
    absl::StrAppend(&error.message, i == 0 ? "" : "; and ", OpenAiField(violations[i].field), " ",
                    violations[i].description);
  }
  if (violations.size() > kViolationsShownMax) {
    absl::StrAppend(&error.message, "; and ", violations.size() - kViolationsShownMax, " more");
  }
  return error;
}

std::string ToJson(int http_status, const OpenAiError& error) {
  const auto or_null = [](const std::optional<std::string>& text) {
    return text.has_value() ? Json(*text) : Json();
  };
  const Json json = {{"message", error.message},
                     {"type", TypeOf(http_status)},
                     {"param", or_null(error.param)},
                     {"code", or_null(error.code)}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// When to try again, for those who look: OpenAI's clients retry 408, 409, 429 and from 500 on by
// themselves, also where that cannot help: they wait a minute at most, and a budget that is spent
// comes back with the day or the month.
HttpHeaders RetryHeaders(const absl::Status& status, int http_status) {
  if (const std::optional<int64_t> after_ms = RetryPushbackMs(status); after_ms.has_value()) {
    const bool helps = RefusalOf(status)->reason != reason::kBudgetSpent;
    return {{"retry-after-ms", absl::StrCat(*after_ms)},
            {"retry-after", absl::StrCat(std::max<int64_t>(1, (*after_ms + 999) / 1000))},
            {"x-should-retry", helps ? "true" : "false"}};
  }
  if (http_status == 409 || http_status == 429 || http_status == 504)
    return {{"x-should-retry", "false"}};
  return {};
}

}  // namespace

int HttpStatusOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 200;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kAborted:
      return 409;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    case absl::StatusCode::kCancelled:
      return 499;  // for the log: there is nobody to read it
    default:
      return 500;
  }
}

HttpReply ErrorReply(int http_status, const OpenAiError& error) {
  return {.status = http_status,
          .body = absl::StrCat("{\"error\":", ToJson(http_status, error), "}")};
}

HttpReply ErrorReply(const absl::Status& status, const std::string& usage) {
  const int http_status = HttpStatusOf(status);
  HttpReply reply = ErrorReply(http_status, ErrorOf(status));
  if (!usage.empty()) {
    reply.body.pop_back();
    absl::StrAppend(&reply.body, ",\"usage\":", usage, "}");
  }
  reply.headers = RetryHeaders(status, http_status);
  if (http_status == 401) reply.headers.emplace_back("www-authenticate", "Bearer");
  return reply;
}

std::string ErrorObject(const absl::Status& status) {
  return ToJson(HttpStatusOf(status), ErrorOf(status));
}

}  // namespace tuppence
