// The body of a batch's line, an OpenAI request for a chat or a completion, as what the service is
// asked over gRPC. Fields that have no effect here are passed over, those that would change the
// answer in a way that is not offered are refused; ranges are the service's to check. Used by
// batch_line. Pure.
#pragma once

#include <vector>

#include "model/sampling_params.h"
#include "nlohmann/json.hpp"
#include "tuppence/v1/tuppence.pb.h"

namespace tuppence {

// What is wrong with single fields is added to *violations, under OpenAI's names.
v1::GenerateRequest ReadChatBody(const nlohmann::json& body,
                                 std::vector<FieldViolation>* violations);
v1::GenerateRequest ReadCompletionBody(const nlohmann::json& body,
                                       std::vector<FieldViolation>* violations);

}  // namespace tuppence
