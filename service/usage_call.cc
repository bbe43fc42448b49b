#include "service/usage_call.h"

#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "service/call_registry.h"
#include "service/convert.h"
#include "service/explain.h"
#include "service/served_model.h"
#include "service/unary_call.h"
#include "service/usage_reader.h"
#include "tuppence/v1/tuppence.pb.h"

namespace tuppence {
namespace {

constexpr double kSecondsPerNs = 1e-9;

void ToProto(const OpenCall& call, const ServiceParts& parts, v1::GetUsageResponse* proto) {
  const int64_t age_ns = parts.clock->NowNs() - call.received_ns;
  proto->set_request_id(call.request_id);
  proto->set_caller_request_id(call.caller_request_id);
  proto->set_tenant(call.tenant);
  proto->set_model(parts.model->name);
  proto->set_open(true);
  proto->set_received_unix_ns(parts.clock->UtcNs() - age_ns);
  proto->mutable_usage()->set_prompt_tokens(call.prompt_tokens);
  proto->mutable_usage()->set_completion_tokens(call.completion_tokens);
  proto->mutable_usage()->set_total_seconds(kSecondsPerNs * age_ns);
  proto->set_explanation(ExplainOpen(call, age_ns));
}

void ToProto(const FoundRequest& found, v1::GetUsageResponse* proto) {
  const StoredRequest& row = found.request;
  proto->set_request_id(row.request_id);
  proto->set_caller_request_id(row.caller_id);
  proto->set_tenant(row.tenant);
  proto->set_model(row.model);
  proto->set_outcome(row.outcome);
  proto->set_code(static_cast<int32_t>(row.code));
  proto->set_received_unix_ns(row.received_utc_ns);
  proto->set_ended_unix_ns(row.ended_utc_ns);
  ToProto(UsageOf(row), proto->mutable_usage());
  ToProto(CostOf(row), proto->mutable_cost());
  proto->set_explanation(Explain(found));
}

absl::Status GetUsage(const ServiceParts& parts, const CallIdentity& identity,
                      v1::GetUsageRequest* request, v1::GetUsageResponse* response) {
  const std::string& id = request->request_id();
  if (id.empty()) {
    return InvalidFields({{"request_id",
                           "is missing; give the tuppence-request-id that came with the answer, or "
                           "the x-request-id that the call was sent with"}});
  }
  // An ended call leaves the registry after its row is durable: who is not here may be there.
  if (const auto open = parts.calls->Find(identity.tenant, id); open.has_value()) {
    ToProto(*open, parts, response);
    return absl::OkStatus();
  }
  if (parts.usage_store.empty()) {
    return RefusalStatus(absl::StatusCode::kFailedPrecondition,
                         "no request of that id is open, and this service keeps no books of ended "
                         "ones; start it with --usage-store FILE",
                         Because(reason::kNoUsageStore));
  }
  const auto reader = UsageReader::Open(parts.usage_store);
  if (!reader.ok()) return absl::UnavailableError(reader.status().message());
  const auto found = (*reader)->FindRequest(id, identity.tenant);
  if (!found.ok()) return absl::UnavailableError(found.status().message());
  if (!found->has_value()) {
    return RefusalStatus(
        absl::StatusCode::kNotFound,
        absl::StrCat("tenant ", identity.tenant, " has no request of that id in the books: it was ",
                     "refused before any work, was answered while nothing could be recorded, is "
                     "older than --keep-requests-days, or went to another service; check the id "
                     "and the tenant"),
        Because(reason::kRequestNotFound));
  }
  ToProto(**found, response);
  return absl::OkStatus();
}

}  // namespace

grpc::ServerUnaryReactor* AnswerGetUsage(const ServiceParts& parts,
                                         grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* response) {
  return AnswerUnary<v1::GetUsageRequest, v1::GetUsageResponse>(Method::kGetUsage, parts, context,
                                                                *request, response, GetUsage);
}

}  // namespace tuppence
