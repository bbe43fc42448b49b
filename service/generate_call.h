// generate_call: one Generate call from its bytes to its last message, as a gRPC reactor that
// deletes itself. Reads the request, gives it to a Generation (on gRPC's thread), then writes what
// gathers in the stream, one write in flight. The engine never waits for it. Made by
// inference_service for each call.
#pragma once

#include "service/service_parts.h"

namespace grpc {
class ByteBuffer;
class CallbackServerContext;
template <class Response>
class ServerWriteReactor;
}  // namespace grpc

namespace tuppence {

// `parts` outlives the call.
grpc::ServerWriteReactor<grpc::ByteBuffer>* StartGenerate(const ServiceParts& parts,
                                                          grpc::CallbackServerContext* context,
                                                          const grpc::ByteBuffer* request);

}  // namespace tuppence
