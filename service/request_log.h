// RequestLog: one JSON line for each call: who, what came of it, how much and how long. Never what
// was asked or answered. Strings that callers chose are escaped by the JSON writer, so no line can
// be forged and no terminal steered. Written by the calls as they end; any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "scheduler/request.h"
#include "service/call_identity.h"

namespace tuppence {

struct CallRecord {
  std::string_view method;  // "Generate", ...
  const CallIdentity* identity = nullptr;
  const absl::Status* status = nullptr;
  int64_t ended_utc_ns = 0;
  int64_t total_ns = 0;
  const RequestEnd* end = nullptr;  // null where the engine never had the request
};

class RequestLog {
 public:
  // `write` takes each line, without its end, on the calls' threads, and must not hold them up;
  // without it nothing is written.
  explicit RequestLog(std::function<void(std::string_view line)> write);
  void Write(const CallRecord& record) const;

 private:
  const std::function<void(std::string_view)> write_;
};

// The line, without its end.
std::string FormatRecord(const CallRecord& record);

}  // namespace tuppence
