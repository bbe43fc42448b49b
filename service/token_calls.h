// token_calls: Tokenize, Detokenize and GetModel: answered at once on gRPC's thread, without the
// engine. Refused by name where the checkpoint has no supported tokenizer.
// Made by inference_service for each call.
#pragma once

#include "service/service_parts.h"

namespace grpc {
class ByteBuffer;
class CallbackServerContext;
class ServerUnaryReactor;
}  // namespace grpc

namespace tuppence {

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
