#include "service/rpc_status.h"

#include <grpcpp/support/error_details.h>
#include <grpcpp/support/status.h>

#include <algorithm>
#include <cstdint>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "service/convert.h"

namespace tuppence {
namespace {

constexpr size_t kViolationsShownMax = 16;
constexpr char kBadRequestUrl[] = "type.googleapis.com/google.rpc.BadRequest";

template <typename Detail>
void AddDetail(const Detail& detail, google::rpc::Status* rpc) {
  rpc->add_details()->PackFrom(detail);
}

void AddRefusal(const Refusal& refusal, const std::string& message, google::rpc::Status* rpc) {
  google::rpc::ErrorInfo info;
  info.set_reason(refusal.reason);
  info.set_domain(kErrorDomain);
  for (const auto& [key, value] : refusal.metadata) (*info.mutable_metadata())[key] = value;
  AddDetail(info, rpc);
  if (refusal.retry_after_ms >= 0) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(refusal.retry_after_ms / 1000);
    retry.mutable_retry_delay()->set_nanos(
        static_cast<int32_t>(refusal.retry_after_ms % 1000 * 1'000'000));
    AddDetail(retry, rpc);
  }
  if (!refusal.tenant.empty()) {
    google::rpc::QuotaFailure quota;
    google::rpc::QuotaFailure::Violation* violation = quota.add_violations();
    violation->set_subject(absl::StrCat("tenant:", refusal.tenant));
    violation->set_description(message);
    AddDetail(quota, rpc);
  }
}

void AddBooked(const RequestEnd& end, google::rpc::Status* rpc) {
  v1::Usage usage;
  ToProto(end.usage, &usage);
  AddDetail(usage, rpc);
  v1::Cost cost;
  ToProto(end.cost, &cost);
  AddDetail(cost, rpc);
}

}  // namespace

absl::Status KeyReused() {
  return RefusalStatus(absl::StatusCode::kAlreadyExists,
                       "this idempotency key was used for another request; a key stands for one "
                       "request: send the same request, or another key",
                       Because(reason::kKeyReused));
}

Refusal Because(const char* reason, std::vector<std::pair<std::string, std::string>> metadata) {
  Refusal refusal;
  refusal.reason = reason;
  refusal.metadata = std::move(metadata);
  return refusal;
}

absl::Status InvalidFields(const std::vector<FieldViolation>& violations, const Refusal& refusal) {
  std::string message = absl::StrCat(violations[0].field, " ", violations[0].description);
  if (violations.size() > 1) {
    absl::StrAppend(&message, " (and ", violations.size() - 1, " more in the details)");
  }
  absl::Status status = RefusalStatus(absl::StatusCode::kInvalidArgument, message, refusal);
  google::rpc::BadRequest bad;
  for (size_t i = 0; i < std::min(violations.size(), kViolationsShownMax); ++i) {
    google::rpc::BadRequest::FieldViolation* violation = bad.add_field_violations();
    violation->set_field(violations[i].field);
    violation->set_description(violations[i].description);
  }
  status.SetPayload(kBadRequestUrl, absl::Cord(bad.SerializeAsString()));
  return status;
}

std::vector<FieldViolation> ViolationsOf(const absl::Status& status) {
  std::vector<FieldViolation> violations;
  google::rpc::BadRequest bad;
  const auto payload = status.GetPayload(kBadRequestUrl);
  if (!payload.has_value() || !bad.ParseFromString(std::string(*payload))) return violations;
  for (const auto& violation : bad.field_violations()) {
    violations.push_back({violation.field(), violation.description()});
  }
  return violations;
}

grpc::Status ToGrpcStatus(const absl::Status& status, const std::string& request_id,
                          const RequestEnd* end) {
  if (status.ok()) return grpc::Status::OK;
  google::rpc::Status rpc;
  rpc.set_code(static_cast<int32_t>(status.code()));  // absl took gRPC's numbers
  rpc.set_message(std::string(status.message()));
  if (const auto payload = status.GetPayload(kBadRequestUrl); payload.has_value()) {
    google::protobuf::Any* any = rpc.add_details();
    any->set_type_url(kBadRequestUrl);
    any->set_value(std::string(*payload));
  }
  // A status that nobody gave a reason has its code's name.
  const std::optional<Refusal> refusal = RefusalOf(status);
  AddRefusal(refusal.value_or(Because(absl::StatusCodeToString(status.code()).c_str())),
             rpc.message(), &rpc);
  google::rpc::RequestInfo request;
  request.set_request_id(request_id);
  AddDetail(request, &rpc);
  if (end != nullptr) AddBooked(*end, &rpc);
  grpc::Status result;
  grpc::SetErrorDetails(rpc, &result);
  return result;
}

std::optional<int64_t> RetryPushbackMs(const absl::Status& status) {
  const std::optional<Refusal> refusal = RefusalOf(status);
  if (!refusal.has_value() || refusal->retry_after_ms < 0) return std::nullopt;
  return refusal->retry_after_ms;
}

}  // namespace tuppence
