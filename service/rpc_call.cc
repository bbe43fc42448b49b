#include "service/rpc_call.h"

#include <grpcpp/impl/codegen/proto_utils.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/check.h"
#include "scheduler/clock.h"
#include "scheduler/refusal.h"
#include "service/convert.h"
#include "service/load_report.h"
#include "service/rpc_status.h"

namespace tuppence {
namespace {

MetadataValue Find(const grpc::CallbackServerContext& context, const std::string& key) {
  MetadataValue found;
  const auto [first, last] = context.client_metadata().equal_range(key);
  for (auto it = first; it != last; ++it) {
    if (found.count++ == 0) found.value.assign(it->second.data(), it->second.size());
  }
  return found;
}

}  // namespace

absl::Status ReadIdentity(const grpc::CallbackServerContext& context, const ServiceParts& parts,
                          CallIdentity* identity) {
  IdentityFields fields;
  fields.authorization = Find(context, kAuthorizationKey);
  fields.caller_request_id = Find(context, kCallerRequestIdKey);
  fields.traceparent = Find(context, kTraceparentKey);
  fields.idempotency_key = Find(context, kIdempotencyKey);
  const std::string& tenant_header = parts.limits.tenant_header;
  if (!tenant_header.empty()) fields.tenant = Find(context, tenant_header);
  return ReadIdentity(fields, parts, identity);
}

absl::StatusOr<int64_t> ReadDeadline(const grpc::CallbackServerContext& context,
                                     const CallLimits& limits, const Clock& clock) {
  const int64_t now_ns = clock.NowNs();
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) {
    return now_ns + limits.deadline_max_ns;
  }
  const int64_t left_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(
                              deadline - std::chrono::system_clock::now())
                              .count();
  if (left_ns <= 0) {
    return RefusalStatus(absl::StatusCode::kDeadlineExceeded,
                         "the call's deadline had passed before it was read; allow more time",
                         Because(reason::kDeadline));
  }
  return now_ns + std::min(left_ns, limits.deadline_max_ns);
}

absl::Status ParseMessage(const grpc::ByteBuffer& bytes, const CallLimits& limits,
                          google::protobuf::Message* message) {
  // Parsing empties the buffer that it is given; the call's own is shared, not copied.
  grpc::ByteBuffer shared(bytes);
  const grpc::Status parsed =
      grpc::GenericDeserialize<grpc::ProtoBufferReader, google::protobuf::Message>(&shared,
                                                                                   message);
  if (!parsed.ok()) {
    return RefusalStatus(
        absl::StatusCode::kInvalidArgument,
        absl::StrCat("the request's ", bytes.Length(), " bytes are not a ",
                     message->GetDescriptor()->full_name(),
                     ": it is cut short or malformed, or one of its texts is not valid UTF-8; "
                     "check how the client writes it"),
        Because(reason::kMalformedMessage));
  }
  if (limits.strict) {
    if (const auto unknown = FindUnknownField(*message); unknown.has_value()) {
      return InvalidFields({{*unknown,
                             "is not known to this version of the service, which refuses what it "
                             "does not know (--strict); leave it out"}});
    }
  }
  return absl::OkStatus();
}

void SerialiseMessage(const google::protobuf::Message& message, grpc::ByteBuffer* bytes) {
  bytes->Clear();  // the writer insists
  bool own_buffer = false;
  const grpc::Status written =
      grpc::GenericSerialize<grpc::ProtoBufferWriter, google::protobuf::Message>(message, bytes,
                                                                                 &own_buffer);
  CHECK(written.ok());
}

void AddTrailers(const CallIdentity& identity, const absl::Status& status,
                 grpc::CallbackServerContext* context) {
  context->AddTrailingMetadata(kRequestIdKey, identity.request_id);
  if (!identity.caller_request_id.empty()) {
    context->AddTrailingMetadata(kCallerRequestIdKey, identity.caller_request_id);
  }
  if (const auto pushback_ms = RetryPushbackMs(status); pushback_ms.has_value()) {
    context->AddTrailingMetadata("grpc-retry-pushback-ms", absl::StrCat(*pushback_ms));
  }
}

void AddLoadReport(const Cost& cost, grpc::CallbackServerContext* context) {
  context->AddTrailingMetadata(kLoadReportKey, SerialiseLoadReport(cost));
}

}  // namespace tuppence
