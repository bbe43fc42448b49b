// HttpServer: the OpenAI-compatible door: one port, plain or TLS, a few threads for all
// connections. Knows sockets and limits; http_routes knows what is answered. Made by serve and by
// tests beside the gRPC server, whose readiness it reports.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "service/http_connection.h"
#include "service/readiness.h"
#include "service/service_parts.h"
#include "service/tls.h"

namespace tuppence {

struct HttpServerOptions {
  std::string host = "127.0.0.1";
  int port = 8000;  // 0: any free one; below 0: none, what Take brings is served
  TlsFiles tls;     // certificate "": plain text
  int threads = 2;
  int64_t connections_max = 16384;                // more are closed at once
  int64_t keepalive_ns = 20'000'000'000;          // probe a silent connection after this ...
  int64_t keepalive_timeout_ns = 10'000'000'000;  // ... and close it without an answer in this
  HttpLimits limits;
};

class HttpServer {
 public:
  // Listens. Errors name the address and the way out. `parts` is copied; what it points at, and
  // what `readiness` looks at, outlives the server.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const HttpServerOptions& options,
                                                           const ServiceParts& parts,
                                                           std::function<Readiness()> readiness);
  ~HttpServer();  // Stop(0)

  int port() const;
  bool uses_tls() const;
  // Serves one request of a plain connection that came in elsewhere, `begun` being what was read of
  // it so far, and closes it. The socket is then this server's. Any thread.
  void Take(int socket, std::string begun);
  // Takes no new connections; open ones end after the answer at hand, in `grace_ns` at most.
  // Requires: the engine still ends requests. Idempotent.
  void Stop(int64_t grace_ns);

 private:
  class Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tuppence
