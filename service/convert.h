// convert: proto to Request and back: the only place that sees both. Reads what a message says,
// finds what it cannot say (enums out of range, absent fields), and leaves ranges to
// CheckSamplingParams and content to CheckPrompt. Any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/sampling_params.h"
#include "scheduler/request.h"
#include "scheduler/token_stream.h"
#include "service/generation.h"
#include "service/prompt.h"
#include "service/served_model.h"
#include "tuppence/v1/tuppence.pb.h"

namespace tuppence {

// What the request asks; its texts are moved out of it. What it cannot say becomes violations.
GenerationAsk AskFromProto(v1::GenerateRequest* request);
// The other way round, for a caller of ours. Requires: no violations.
v1::GenerateRequest ToProto(const GenerationAsk& ask);
Prompt TakePrompt(v1::TokenizeRequest* request, std::vector<FieldViolation>* violations);

// The name of the first unknown field, with its path, if there is any.
std::optional<std::string> FindUnknownField(const google::protobuf::Message& message);

// What one message shows of a delta.
struct Shown {
  bool text = true;
  bool token_ids = false;
  bool logprobs = false;
  const Tokenizer* tokenizer = nullptr;  // for token_bytes; may be null
};
// Appends the choices and log-probabilities of `delta`; false when there was nothing to show.
bool AppendDelta(const StreamDelta& delta, const Shown& shown, v1::GenerateResponse* response);

void ToProto(const Usage& usage, v1::Usage* proto);
void ToProto(const Cost& cost, v1::Cost* proto);
v1::FinishReason ToProto(FinishReason reason);
const char* NameOf(FinishReason reason);  // "stop", "length", ... for the log

void ToProto(const ServedModel& model, const std::string& version, v1::GetModelResponse* proto);

}  // namespace tuppence
