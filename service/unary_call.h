// AnswerUnary: what the methods share that are answered at once on gRPC's thread, without the
// engine: read who calls, parse, answer, count, log. Used by token_calls and usage_call.
#pragma once

#include <grpcpp/support/server_callback.h>

#include "scheduler/clock.h"
#include "service/call_identity.h"
#include "service/count_call.h"
#include "service/rpc_call.h"
#include "service/rpc_status.h"
#include "service/service_parts.h"

namespace tuppence {

// answer(parts, identity, &request, &response) does the method's own work and returns its status.
template <typename Request, typename Response, typename Answer>
grpc::ServerUnaryReactor* AnswerUnary(Method method, const ServiceParts& parts,
                                      grpc::CallbackServerContext* context,
                                      const grpc::ByteBuffer& bytes, grpc::ByteBuffer* out,
                                      Answer answer) {
  const int64_t received_ns = parts.clock->NowNs();
  CallIdentity identity;
  Request request;
  Response response;
  absl::Status status = ReadIdentity(*context, parts, &identity);
  if (status.ok()) status = ReadDeadline(*context, parts.limits, *parts.clock).status();
  if (status.ok()) status = ParseMessage(bytes, parts.limits, &request);
  if (status.ok()) status = answer(parts, identity, &request, &response);
  if (status.ok()) {
    SerialiseMessage(response, out);
    context->AddInitialMetadata(kRequestIdKey, identity.request_id);
  }
  AddTrailers(identity, status, context);
  CountCall(parts, method, identity, status, received_ns);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status, identity.request_id));
  return reactor;
}

}  // namespace tuppence
