#include "service/token_calls.h"

#include <grpcpp/support/server_callback.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "scheduler/admission.h"
#include "service/call_identity.h"
#include "service/convert.h"
#include "service/minute_limits.h"
#include "service/prompt.h"
#include "service/rpc_status.h"
#include "service/unary_call.h"
#include "service/version.h"

namespace tuppence {
namespace {

absl::Status Tokenize(const ServiceParts& parts, const CallIdentity& identity,
                      v1::TokenizeRequest* request, v1::TokenizeResponse* response) {
  if (absl::Status taken = TakeOneRequest(parts, identity); !taken.ok()) return taken;
  std::vector<FieldViolation> violations;
  Prompt prompt = TakePrompt(request, &violations);
  const auto ids =
      TokeniseAsked(parts, identity, request->model(), std::move(prompt), std::move(violations));
  if (!ids.ok()) return ids.status();
  response->mutable_token_ids()->Add(ids->begin(), ids->end());
  for (const int32_t id : *ids) {
    const std::string_view bytes = parts.model->tokenizer->TokenBytes(id);
    response->add_token_bytes(bytes.data(), bytes.size());
  }
  response->set_context_tokens(parts.model->context_tokens);
  return absl::OkStatus();
}

absl::Status Detokenize(const ServiceParts& parts, const CallIdentity& identity,
                        v1::DetokenizeRequest* request, v1::DetokenizeResponse* response) {
  if (absl::Status taken = TakeOneRequest(parts, identity); !taken.ok()) return taken;
  const std::vector<int32_t> ids(request->token_ids().begin(), request->token_ids().end());
  absl::StatusOr<std::string> text =
      DetokeniseAsked(parts, request->model(), ids, request->keep_special_tokens());
  if (!text.ok()) return text.status();
  response->set_text(*std::move(text));
  return absl::OkStatus();
}

absl::Status GetModel(const ServiceParts& parts, const CallIdentity&, v1::GetModelRequest*,
                      v1::GetModelResponse* response) {
  ToProto(*parts.model, kVersion, response);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> TokeniseAsked(const ServiceParts& parts,
                                                   const CallIdentity& identity,
                                                   const std::string& model_name, Prompt prompt,
                                                   std::vector<FieldViolation> violations) {
  const ServedModel& model = *parts.model;
  if (absl::Status status = CheckModelName(model_name, model); !status.ok()) return status;
  if (absl::Status status = CheckPromptKind(prompt, model); !status.ok()) return status;
  CheckPrompt(prompt, model, parts.limits, &violations);
  if (!violations.empty()) return InvalidFields(violations);
  // Tokenising is work, so it takes a place like a Generate call, for as long as it lasts.
  const auto hold = parts.admission->Reserve(identity.tenant, PromptTokensBound(prompt, model));
  if (!hold.ok()) return hold.status();
  return TokenisePrompt(std::move(prompt), model);
}

absl::StatusOr<std::string> DetokeniseAsked(const ServiceParts& parts,
                                            const std::string& model_name,
                                            const std::vector<int32_t>& ids,
                                            bool keep_special_tokens) {
  const ServedModel& model = *parts.model;
  if (absl::Status status = CheckModelName(model_name, model); !status.ok()) return status;
  if (model.tokenizer == nullptr) {
    return RefusalStatus(absl::StatusCode::kFailedPrecondition,
                         absl::StrCat("text needs a tokenizer, and this model is served without "
                                      "one (",
                                      model.tokenizer_missing_why,
                                      "); turn the ids into text with the model's own tools"),
                         Because(reason::kNoTokenizer));
  }
  std::vector<FieldViolation> violations;
  CheckTokenIds(ids, "token_ids", model, &violations);
  if (!violations.empty()) return InvalidFields(violations);
  return model.tokenizer->Decode(ids, !keep_special_tokens);
}

grpc::ServerUnaryReactor* AnswerTokenize(const ServiceParts& parts,
                                         grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* response) {
  return AnswerUnary<v1::TokenizeRequest, v1::TokenizeResponse>(Method::kTokenize, parts, context,
                                                                *request, response, Tokenize);
}

grpc::ServerUnaryReactor* AnswerDetokenize(const ServiceParts& parts,
                                           grpc::CallbackServerContext* context,
                                           const grpc::ByteBuffer* request,
                                           grpc::ByteBuffer* response) {
  return AnswerUnary<v1::DetokenizeRequest, v1::DetokenizeResponse>(
      Method::kDetokenize, parts, context, *request, response, Detokenize);
}

grpc::ServerUnaryReactor* AnswerGetModel(const ServiceParts& parts,
                                         grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* response) {
  return AnswerUnary<v1::GetModelRequest, v1::GetModelResponse>(Method::kGetModel, parts, context,
                                                                *request, response, GetModel);
}

}  // namespace tuppence
