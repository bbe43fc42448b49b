// token_calls: Tokenize, Detokenize and GetModel: answered at once on the door's thread, without
// the engine. Refused by name where the checkpoint has no supported tokenizer. Called by
// inference_service and http_routes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "service/prompt.h"
#include "service/service_parts.h"

namespace grpc {
class ByteBuffer;
class CallbackServerContext;
class ServerUnaryReactor;
}  // namespace grpc

namespace tuppence {

struct CallIdentity;

// What both doors answer. `violations`: what the door itself found wrong with the prompt.
absl::StatusOr<std::vector<int32_t>> TokeniseAsked(const ServiceParts& parts,
                                                   const CallIdentity& identity,
                                                   const std::string& model, Prompt prompt,
                                                   std::vector<FieldViolation> violations);
absl::StatusOr<std::string> DetokeniseAsked(const ServiceParts& parts, const std::string& model,
                                            const std::vector<int32_t>& ids,
                                            bool keep_special_tokens);

grpc::ServerUnaryReactor* AnswerTokenize(const ServiceParts& parts,
                                         grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* response);
grpc::ServerUnaryReactor* AnswerDetokenize(const ServiceParts& parts,
                                           grpc::CallbackServerContext* context,
                                           const grpc::ByteBuffer* request,
                                           grpc::ByteBuffer* response);
grpc::ServerUnaryReactor* AnswerGetModel(const ServiceParts& parts,
                                         grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* response);

}  // namespace tuppence
