// rpc_status: absl::Status, with what it carries, to grpc::Status with google.rpc details. The one
// place that maps failures to codes and details. Any thread.
//
// Details of an error: BadRequest (which fields), ErrorInfo (reason, domain "tuppence", limits with
// their units in the keys), RetryInfo (when), QuotaFailure (whose), RequestInfo (which call); and
// Usage and Cost of our own API, where the engine had the request.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "model/sampling_params.h"
#include "scheduler/refusal.h"
#include "scheduler/request.h"

namespace grpc {
class Status;
}

namespace tuppence {

inline constexpr char kErrorDomain[] = "tuppence";

// Reasons of the service's own refusals; the engine's are in scheduler/refusal.h.
namespace reason {
inline constexpr char kInvalidFields[] = "INVALID_FIELDS";           // INVALID_ARGUMENT
inline constexpr char kMalformedMessage[] = "MALFORMED_MESSAGE";     // INVALID_ARGUMENT
inline constexpr char kModelNotFound[] = "MODEL_NOT_FOUND";          // NOT_FOUND
inline constexpr char kNoTokenizer[] = "NO_TOKENIZER";               // FAILED_PRECONDITION
inline constexpr char kNoChatTemplate[] = "NO_CHAT_TEMPLATE";        // FAILED_PRECONDITION
inline constexpr char kClassNotAllowed[] = "CLASS_NOT_ALLOWED";      // PERMISSION_DENIED
inline constexpr char kUnrecordable[] = "UNRECORDABLE";              // UNAVAILABLE
inline constexpr char kInvalidApiKey[] = "INVALID_API_KEY";          // UNAUTHENTICATED
inline constexpr char kRateLimit[] = "RATE_LIMIT";                   // RESOURCE_EXHAUSTED
inline constexpr char kNoUsageStore[] = "NO_USAGE_STORE";            // FAILED_PRECONDITION
inline constexpr char kRequestNotFound[] = "REQUEST_NOT_FOUND";      // NOT_FOUND
inline constexpr char kFileNotFound[] = "FILE_NOT_FOUND";            // NOT_FOUND
inline constexpr char kBatchNotFound[] = "BATCH_NOT_FOUND";          // NOT_FOUND
inline constexpr char kFilesFull[] = "FILES_FULL";                   // RESOURCE_EXHAUSTED
inline constexpr char kTooManyBatches[] = "TOO_MANY_BATCHES";        // RESOURCE_EXHAUSTED
inline constexpr char kKeyReused[] = "IDEMPOTENCY_KEY_REUSED";       // ALREADY_EXISTS
inline constexpr char kKeyAnswerGone[] = "IDEMPOTENCY_ANSWER_GONE";  // ALREADY_EXISTS
inline constexpr char kKeyInProgress[] = "IDEMPOTENCY_IN_PROGRESS";  // ABORTED
}  // namespace reason

// ALREADY_EXISTS: what came under an idempotency key before was not this.
absl::Status KeyReused();

// A refusal that a retry does not help: its reason, and the numbers behind it.
Refusal Because(const char* reason, std::vector<std::pair<std::string, std::string>> metadata = {});

// INVALID_ARGUMENT for these fields. The message names the first and counts the rest; the details
// carry the first sixteen. Requires: not empty.
absl::Status InvalidFields(const std::vector<FieldViolation>& violations,
                           const Refusal& refusal = Because(reason::kInvalidFields));

// The fields that such a status carries; none where it is another.
std::vector<FieldViolation> ViolationsOf(const absl::Status& status);

// `end`: what was booked, of a call that has no last message to say it; null: it has one, or the
// engine never had the request.
grpc::Status ToGrpcStatus(const absl::Status& status, const std::string& request_id,
                          const RequestEnd* end = nullptr);

// What `grpc-retry-pushback-ms` should say; none where a retry is not what helps.
std::optional<int64_t> RetryPushbackMs(const absl::Status& status);

}  // namespace tuppence
