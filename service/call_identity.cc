#include "service/call_identity.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <random>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "service/api_keys.h"
#include "service/rpc_status.h"
#include "service/service_parts.h"

namespace tuppence {
namespace {

constexpr size_t kNameBytesMax = 128;

bool IsPrintable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c <= 0x7E; });
}

// "" where the value may be used, else what is wrong with it.
std::string Fault(const MetadataValue& metadata) {
  if (metadata.count > 1) {
    return absl::StrCat("came ", metadata.count, " times; send it once");
  }
  if (metadata.value.empty() || metadata.value.size() > kNameBytesMax) {
    return absl::StrCat("has ", metadata.value.size(), " characters; allowed is 1 to ",
                        kNameBytesMax, "; shorten it or leave it out");
  }
  if (!IsPrintable(metadata.value)) return "holds a character that is not printable ASCII";
  return "";
}

}  // namespace

std::string MakeRequestId() {
  static const uint64_t process = [] {
    std::random_device device;
    return (uint64_t{device()} << 32) | device();
  }();
  static std::atomic<uint64_t> count = 0;
  return absl::StrCat(absl::Hex(process, absl::kZeroPad16),
                      absl::Hex(count.fetch_add(1) + 1, absl::kZeroPad16));
}

bool IsTraceparent(std::string_view value) {
  constexpr size_t kBytesMax = 256;
  constexpr std::string_view kShape = "00-00000000000000000000000000000000-0000000000000000-00";
  constexpr std::string_view kHex = "0123456789abcdef";
  if (value.size() < kShape.size() || value.size() > kBytesMax) return false;
  for (size_t i = 0; i < kShape.size(); ++i) {
    const bool fits = kShape[i] == '-' ? value[i] == '-' : kHex.find(value[i]) != kHex.npos;
    if (!fits) return false;
  }
  const std::string_view version = value.substr(0, 2);
  if (version == "ff") return false;
  if (value.size() > kShape.size() && (version == "00" || value[kShape.size()] != '-')) {
    return false;
  }
  return value.substr(3, 32).find_first_not_of('0') != value.npos &&
         value.substr(36, 16).find_first_not_of('0') != value.npos;
}

absl::Status ReadIdentity(const IdentityFields& fields, const ServiceParts& parts,
                          CallIdentity* identity) {
  if (identity->request_id.empty()) identity->request_id = MakeRequestId();
  const MetadataValue& caller_request_id = fields.caller_request_id;
  const MetadataValue& tenant = fields.tenant;
  const std::string& tenant_header = parts.limits.tenant_header;
  if (fields.traceparent.count == 1 && IsTraceparent(fields.traceparent.value)) {
    identity->traceparent = fields.traceparent.value;
  }
  if (parts.keys != nullptr) {
    absl::StatusOr<std::string> known = parts.keys->TenantOf(fields.authorization);
    if (!known.ok()) return known.status();
    identity->tenant = *std::move(known);
  }
  std::vector<FieldViolation> violations;
  if (caller_request_id.count > 0) {
    if (const std::string fault = Fault(caller_request_id); !fault.empty()) {
      violations.push_back({kCallerRequestIdKey, fault});
    } else {
      identity->caller_request_id = caller_request_id.value;
    }
  }
  if (fields.idempotency_key.count > 0) {
    if (const std::string fault = Fault(fields.idempotency_key); !fault.empty()) {
      violations.push_back({kIdempotencyKey, fault});
    } else {
      identity->idempotency_key = fields.idempotency_key.value;
    }
  }
  if (parts.keys == nullptr && !tenant_header.empty() && tenant.count > 0) {
    if (const std::string fault = Fault(tenant); !fault.empty()) {
      violations.push_back({tenant_header, fault});
    } else {
      identity->tenant = tenant.value;
    }
  }
  if (!violations.empty()) return InvalidFields(violations);
  identity->known = true;
  return absl::OkStatus();
}

}  // namespace tuppence
