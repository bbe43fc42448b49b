// RequestLog: one JSON line for each call: who, what came of it, how much and how long. Never what
// was asked or answered. Strings that callers chose are escaped by the JSON writer, so no line can
// be forged and no terminal steered. Written by the calls as they end; any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "scheduler/request.h"
#include "service/call_identity.h"

namespace spdlog {
class logger;
}

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
  // A null logger writes nothing.
  explicit RequestLog(std::shared_ptr<spdlog::logger> logger);
  ~RequestLog();
  void Write(const CallRecord& record);

 private:
  std::shared_ptr<spdlog::logger> logger_;
};

// The line, without its end.
std::string FormatRecord(const CallRecord& record);

// A logger that writes bare lines to standard output from a thread of its own; when nobody reads
// them it drops the oldest rather than hold up a call.
std::shared_ptr<spdlog::logger> MakeStdoutLogger();

}  // namespace tuppence
