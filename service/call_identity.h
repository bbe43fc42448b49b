// CallIdentity: who calls, and the names of the call: the server's id and the caller's own.
// Read from a call's metadata by every method before anything else. Any thread.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace tuppence {

struct ServiceParts;

inline constexpr char kRequestIdKey[] = "tuppence-request-id";
inline constexpr char kCallerRequestIdKey[] = "x-request-id";
inline constexpr char kAuthorizationKey[] = "authorization";
inline constexpr char kTraceparentKey[] = "traceparent";
inline constexpr char kIdempotencyKey[] = "idempotency-key";
inline constexpr char kReplayedKey[] = "idempotent-replayed";
inline constexpr char kUnknownTenant[] = "unknown";

struct CallIdentity {
  std::string request_id;         // made here, unique; set even where reading fails
  std::string caller_request_id;  // "" where the caller sent none
  std::string tenant = kUnknownTenant;
  bool known = false;           // all of it was read
  std::string idempotency_key;  // "" where the caller sent none
  std::string traceparent;      // W3C Trace Context, "" where none came or it was malformed
};

// One value of a metadata key, or how often it came where that is not once.
struct MetadataValue {
  std::string value;
  int count = 0;
};

// A new id of 32 hexadecimal digits: 16 drawn once for the process, 16 counted.
std::string MakeRequestId();

// What of a call's metadata, or HTTP header, says who calls.
struct IdentityFields {
  MetadataValue authorization;
  MetadataValue tenant;  // of the tenant header
  MetadataValue caller_request_id;
  MetadataValue traceparent;
  MetadataValue idempotency_key;
};

// Fills *identity. The tenant is whose key the caller shows, where keys are needed; otherwise what
// the tenant header says, where one is configured. UNAUTHENTICATED: no valid key. INVALID_ARGUMENT
// where an id, key or tenant came twice or is not 1 to 128 printable ASCII characters.
absl::Status ReadIdentity(const IdentityFields& fields, const ServiceParts& parts,
                          CallIdentity* identity);

// Whether it is a traceparent as W3C Trace Context defines it: version 00 exactly, later ones by
// what they share with it. One that is not is left out, as the standard asks, and no error.
bool IsTraceparent(std::string_view value);

}  // namespace tuppence
