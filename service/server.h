// Server: the gRPC door: tuppence.v1.Inference, grpc.health.v1 and reflection on one port, with TLS
// where asked for. Owns gRPC's server and a watch thread, which keeps the health states and cuts
// off callers that have stopped reading. Made by serve and by tests; knows calls, not models.
//
// Health names: "" and "liveness" say that the process works, "readiness" and
// "tuppence.v1.Inference" that requests are welcome. Both follow the engine's progress.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "service/readiness.h"
#include "service/service_parts.h"
#include "service/tls.h"

namespace grpc {
class Channel;
}

namespace tuppence {

struct ServerOptions {
  std::string host = "127.0.0.1";
  int port = 8033;     // 0: any free one
  bool listen = true;  // false: in-process channels only
  TlsFiles tls;        // certificate "": plain text
  int64_t message_bytes_max = 4 << 20;
  int64_t metadata_bytes_max = 16 << 10;
  int64_t keepalive_ns = 20'000'000'000;          // ping a silent connection after this ...
  int64_t keepalive_timeout_ns = 10'000'000'000;  // ... and close it without an answer in this
  int64_t connection_age_max_ns = 0;              // 0: no limit
  int64_t stall_ns = 30'000'000'000;  // a write that nobody takes for so long ends its call
  int64_t hang_ns = 60'000'000'000;   // an engine without progress for so long is not ready
};

class Server {
 public:
  // Listens. Errors name the address and the way out: a port in use, an unusable certificate.
  // `parts` is copied; what it points at outlives the server.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options,
                                                       const ServiceParts& parts);
  ~Server();  // Stop(now)

  int port() const;  // the one that was bound
  bool uses_tls() const;
  Readiness readiness() const;
  // A connection without a socket, for clients in this process.
  std::shared_ptr<grpc::Channel> InProcessChannel();

  // Health says NOT_SERVING from now on.
  void SetNotServing();
  // Refuses new calls, gives open ones `grace_ns` to end, then cancels them. Idempotent.
  void Stop(int64_t grace_ns);

 private:
  class Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tuppence
