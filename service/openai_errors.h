// openai_errors: absl::Status, with what it carries, to HTTP's code, OpenAI's error object and the
// headers that its clients read. The HTTP counterpart of rpc_status: the same reasons, the same
// retry times. Pure.
//
// The object has all four keys, of which clients insist: message, type, param, code.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "service/http_exchange.h"

namespace tuppence {

struct OpenAiError {
  std::string message;
  std::optional<std::string> code = std::nullopt;   // for programs, as "model_not_found"
  std::optional<std::string> param = std::nullopt;  // the field that is at fault
};

// Our own codes are reasons of scheduler/refusal and rpc_status in lower case; where OpenAI has a
// name for the same thing it is that one.
int HttpStatusOf(const absl::Status& status);
HttpReply ErrorReply(int http_status, const OpenAiError& error);
// `usage`: what was booked, as JSON, goes beside the error, where clients leave it alone; "": the
// engine never had the request.
HttpReply ErrorReply(const absl::Status& status, const std::string& usage = "");
// The error object alone, for the middle of a stream, whose status has been sent.
std::string ErrorObject(const absl::Status& status);

}  // namespace tuppence
