// usage_call: GetUsage: what the books say of one request, for a caller who never saw its last
// message. Reads the usage store's file beside the books' thread; nothing waits for it.
// Made by inference_service for each call.
#pragma once

#include "service/service_parts.h"

namespace grpc {
class ByteBuffer;
class CallbackServerContext;
class ServerUnaryReactor;
}  // namespace grpc

namespace tuppence {

grpc::ServerUnaryReactor* AnswerGetUsage(const ServiceParts& parts,
                                         grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* response);

}  // namespace tuppence
