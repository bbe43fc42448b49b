// What the handlers of http_routes share: the answers that are made at once, without the engine.
// Used by http_routes, http_files and http_upload.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "scheduler/clock.h"
#include "service/count_call.h"
#include "service/http_call.h"
#include "service/http_exchange.h"
#include "service/http_routes.h"
#include "service/minute_limits.h"
#include "service/openai_errors.h"
#include "service/service_parts.h"

namespace tuppence {

// Without the query.
std::string_view PathOf(const HttpHeader& header);
// What follows '?'; "" without.
std::string_view QueryOf(const HttpHeader& header);
// The name in the path of a route that takes one.
std::string NameIn(const HttpHeader& header);

std::string DumpJson(const nlohmann::ordered_json& json);

// Who calls, and whether there is time left.
absl::Status ReadCaller(const ServiceParts& parts, const HttpHeader& header,
                        CallIdentity* identity);

inline HttpReply ReplyOf(HttpReply reply) { return reply; }
inline HttpReply ReplyOf(const nlohmann::ordered_json& json) { return {.body = DumpJson(json)}; }

// `answer` takes the parts, who calls and the request; it returns the JSON of the answer or, where
// that has headers of its own, the HttpReply, or why there is none.
template <Method method, auto answer>
boost::asio::awaitable<void> AtOnce(const HttpRoutes& routes, HttpExchange& exchange) {
  const ServiceParts& parts = routes.parts();
  const int64_t received_ns = parts.clock->NowNs();
  CallIdentity identity;
  absl::Status status = ReadCaller(parts, exchange.request(), &identity);
  if (status.ok() && exchange.request().method() == boost::beast::http::verb::post) {
    status = TakeOneRequest(parts, identity);
  }
  HttpReply reply;
  if (status.ok()) {
    auto answered = answer(parts, identity, exchange.request());
    status = answered.status();
    if (answered.ok()) reply = ReplyOf(*std::move(answered));
  }
  if (!status.ok()) reply = ErrorReply(status);
  AddOwnHeaders(parts, identity, &reply.headers);
  CountCall(parts, method, identity, status, received_ns);
  co_await exchange.Reply(std::move(reply));
}

}  // namespace tuppence
