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

using AnswerAtOnce = absl::StatusOr<nlohmann::ordered_json> (*)(const ServiceParts& parts,
                                                                const CallIdentity& identity,
                                                                const HttpRequest& request);
template <Method method, AnswerAtOnce answer>
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
    const absl::StatusOr<nlohmann::ordered_json> json = answer(parts, identity, exchange.request());
    status = json.status();
    if (json.ok()) reply.body = DumpJson(*json);
  }
  if (!status.ok()) reply = ErrorReply(status);
  AddOwnHeaders(parts, identity, &reply.headers);
  CountCall(parts, method, identity, status, received_ns);
  co_await exchange.Reply(std::move(reply));
}

}  // namespace tuppence
