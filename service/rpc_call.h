// rpc_call: what every method does with the raw call: read who calls and by when, parse the
// request, write the answer's bytes, put ids and retry hints into the metadata. Messages are parsed
// here and not by gRPC, whose callback server answers a malformed one with a bare UNIMPLEMENTED.
// Used by generate_call and token_calls. Any thread.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "google/protobuf/message.h"
#include "scheduler/request.h"
#include "service/call_identity.h"
#include "service/service_parts.h"

namespace tuppence {

absl::Status ReadIdentity(const grpc::CallbackServerContext& context, const ServiceParts& parts,
                          CallIdentity* identity);

// The call's deadline on the clock's monotonic axis, at most deadline_max_ns from now.
// DEADLINE_EXCEEDED where it has passed.
absl::StatusOr<int64_t> ReadDeadline(const grpc::CallbackServerContext& context,
                                     const CallLimits& limits, const Clock& clock);

// INVALID_ARGUMENT where the bytes are no such message, or, with strict limits, hold fields that
// this version does not know.
absl::Status ParseMessage(const grpc::ByteBuffer& bytes, const CallLimits& limits,
                          google::protobuf::Message* message);

void SerialiseMessage(const google::protobuf::Message& message, grpc::ByteBuffer* bytes);

// Trailing metadata of every call. Initial metadata is the answer's business: sending any commits
// the call, and a committed call is never retried.
void AddTrailers(const CallIdentity& identity, const absl::Status& status,
                 grpc::CallbackServerContext* context);

// What the call cost, as ORCA's trailer, which load balancers and gRPC clients read.
void AddLoadReport(const Cost& cost, grpc::CallbackServerContext* context);

}  // namespace tuppence
