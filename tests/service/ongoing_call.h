// OngoingCall: one call of the service as a test sees it: messages as they come, the end with its
// google.rpc details read, and the caller's own misbehaviour (cancel, read nothing). Hides gRPC, so
// that the tests compile quickly. Used by service_harness.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/sampling_params.h"
#include "tuppence/v1/tuppence.pb.h"

namespace grpc {
class Channel;
}

namespace tuppence {

// gRPC's numbers.
enum Code {
  kOk = 0,
  kCancelled = 1,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kUnauthenticated = 16,
};

struct CallEnd {
  int code = -1;
  std::string message;
  // From google.rpc details; empty where they were absent.
  std::vector<FieldViolation> violations;
  std::string reason;
  std::string domain;
  std::map<std::string, std::string> metadata;
  std::optional<int64_t> retry_ms;
  std::string quota_subject;
  std::string request_id;  // RequestInfo's
  std::optional<v1::Usage> usage;
  std::optional<v1::Cost> cost;
  std::multimap<std::string, std::string> initial;
  std::multimap<std::string, std::string> trailing;
};

struct CallOptions {
  std::optional<int64_t> deadline_ms = std::nullopt;  // from now; may be negative
  std::multimap<std::string, std::string> metadata = {};
  bool gzip = false;
  bool read = true;  // false: takes nothing until Resume
};

class OngoingCall {
 public:
  OngoingCall(std::shared_ptr<grpc::Channel> channel, const v1::GenerateRequest& request,
              const CallOptions& options);
  ~OngoingCall();  // cancels and waits

  void Cancel();
  void Resume();  // starts reading
  // Waits for so many messages; false when the call ended, or ten seconds passed, before.
  bool WaitForMessages(size_t count);
  const CallEnd& Wait();  // for the end
  // After Wait only.
  const std::vector<v1::GenerateResponse>& messages() const;
  std::string text(int choice = 0) const;
  std::vector<int32_t> token_ids(int choice = 0) const;
  v1::FinishReason finish_reason(int choice = 0) const;
  const v1::Usage& usage() const;
  const v1::Cost& cost() const;
  const v1::GenerateResponse::Start& start() const;

 private:
  class Reactor;
  std::unique_ptr<Reactor> reactor_;
};

// One unary call of a method by its name ("Tokenize") with the request's bytes as they are; the
// response's bytes in *response. Also for Generate, when it is sure to be refused.
CallEnd CallWithBytes(const std::shared_ptr<grpc::Channel>& channel, const std::string& path,
                      const std::string& request, std::string* response,
                      const CallOptions& options = {});

}  // namespace tuppence
