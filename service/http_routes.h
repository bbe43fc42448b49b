// HttpRoutes: what is answered over HTTP: the one table of verbs and paths, and what a request's
// header alone decides: its form, its key, its route, its type. Everything after that is the
// handlers'. Used by http_connection; made by http_server. Any thread.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string_view>

#include "service/http_call.h"
#include "service/http_exchange.h"
#include "service/readiness.h"
#include "service/service_counters.h"
#include "service/service_parts.h"

namespace tuppence {

class HttpRoutes;

// What a request of a route brings.
enum class BodyKind : uint8_t {
  kNone,    // whatever it is, nobody reads it
  kJson,    // at most HttpLimits::body_bytes_max, there when the handler is called
  kUpload,  // a form, which the handler reads piece by piece
};

struct HttpRoute {
  const char* verb;
  const char* path;  // as it stands, but that "*" is one name
  BodyKind body;
  Method method;  // counted and logged as
  bool open;      // needs no key
  boost::asio::awaitable<void> (*answer)(const HttpRoutes& routes, HttpExchange& exchange);

  bool Matches(std::string_view target_path) const;
};

class HttpRoutes {
 public:
  HttpRoutes(const ServiceParts& parts, std::function<Readiness()> readiness)
      : parts_(parts), readiness_(std::move(readiness)) {}

  static std::span<const HttpRoute> Table();

  // What to answer where the header already decides that this is refused: the body is then not
  // even read.
  std::optional<HttpReply> Judge(const HttpHeader& header) const;
  // What to answer where there is no request to judge, or its body broke off: counted and logged
  // like any other refusal.
  HttpReply Fault(int http_status, const std::string& message) const;
  // Whether the body is the handler's to read.
  bool TakesUpload(const HttpHeader& header) const;
  // Requires: Judge had nothing against it.
  boost::asio::awaitable<void> Answer(HttpExchange& exchange) const;

  const ServiceParts& parts() const { return parts_; }
  Readiness readiness() const { return readiness_(); }

 private:
  HttpReply Refuse(Method method, const CallIdentity& identity, const absl::Status& status,
                   int http_status) const;

  const ServiceParts& parts_;
  const std::function<Readiness()> readiness_;
};

}  // namespace tuppence
