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
#include "service/prompt.h"
#include "service/served_model.h"
#include "tuppence/v1/tuppence.pb.h"

namespace tuppence {

// Takes the prompt out of the request (its texts are moved). Unknown roles become violations.
Prompt TakePrompt(v1::GenerateRequest* request, std::vector<FieldViolation>* violations);
Prompt TakePrompt(v1::TokenizeRequest* request, std::vector<FieldViolation>* violations);

// The parameters with their defaults. max_tokens stays 0 where it is absent, for its default needs
// the prompt's length; see MaxTokensDefault.
SamplingParams SamplingFromProto(const v1::SamplingParams& sampling,
                                 const v1::OutputOptions& output);

// None where it leaves the choice to us. A value that is no class becomes a violation.
std::optional<PriorityClass> PriorityClassFromProto(v1::PriorityClass priority_class,
                                                    std::vector<FieldViolation>* violations);

// A limit below 1 becomes a violation.
std::optional<int64_t> MaxCostFromProto(const v1::GenerateRequest& request,
                                        std::vector<FieldViolation>* violations);

// What is left of the context, at most 1,024; at least 1, so that a prompt which fills the context
// is refused by the one check that has both numbers.
int32_t MaxTokensDefault(int64_t prompt_tokens, const ServedModel& model);

// What asks for text although there can be none, and biases on ids that stand for nothing.
void CheckAgainstModel(const SamplingParams& params, bool no_text, const ServedModel& model,
                       std::vector<FieldViolation>* violations);

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
