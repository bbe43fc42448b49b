#include "service/http_routes.h"

#include <algorithm>
#include <array>
#include <boost/asio/ip/address.hpp>
#include <boost/beast/http/verb.hpp>
#include <cctype>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "scheduler/clock.h"
#include "service/http_answer.h"
#include "service/openai_errors.h"
#include "service/openai_request.h"
#include "service/request_log.h"
#include "service/rpc_status.h"
#include "service/token_calls.h"
#include "service/version.h"

namespace tuppence {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using Json = nlohmann::ordered_json;

std::string_view View(boost::beast::string_view text) { return {text.data(), text.size()}; }

std::string_view PathOf(const HttpHeader& header) {
  const std::string_view target = View(header.target());
  return target.substr(0, target.find('?'));
}

// What follows the path of a route that takes a name.
std::string NameIn(const HttpRequest& request) {
  const std::string_view path = PathOf(request);
  return std::string(path.substr(path.rfind('/') + 1));
}

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void Count(const ServiceParts& parts, Method method, const CallIdentity& identity,
           const absl::Status& status, int64_t received_ns) {
  parts.counters->CountEnded(method, static_cast<int>(status.code()));
  parts.counters->CountRefused(status);
  parts.log->Write({.method = kMethodNames[static_cast<int>(method)],
                    .identity = &identity,
                    .status = &status,
                    .ended_utc_ns = parts.clock->UtcNs(),
                    .total_ns = parts.clock->NowNs() - received_ns});
}

// Routes that are answered at once, without the engine.
using AnswerAtOnce = absl::StatusOr<Json> (*)(const ServiceParts& parts,
                                              const CallIdentity& identity,
                                              const HttpRequest& request);
template <Method method, AnswerAtOnce answer>
asio::awaitable<void> AtOnce(const HttpRoutes& routes, HttpExchange& exchange) {
  const ServiceParts& parts = routes.parts();
  const int64_t received_ns = parts.clock->NowNs();
  CallIdentity identity;
  absl::Status status = ReadIdentity(exchange.request(), parts, &identity);
  if (status.ok()) {
    status = ReadDeadline(exchange.request(), parts.limits, *parts.clock).status();
  }
  HttpReply reply;
  if (status.ok()) {
    const absl::StatusOr<Json> json = answer(parts, identity, exchange.request());
    status = json.status();
    if (json.ok()) reply.body = Dump(*json);
  }
  if (!status.ok()) reply = ErrorReply(status);
  AddIds(identity, &reply.headers);
  Count(parts, method, identity, status, received_ns);
  co_await exchange.Reply(std::move(reply));
}

Json ModelJson(const ServedModel& model) {
  return {{"id", model.name},
          {"object", "model"},
          {"created", model.loaded_unix_seconds},
          {"owned_by", "tuppence"},
          {"max_model_len", model.context_tokens}};
}

absl::StatusOr<Json> ListModels(const ServiceParts& parts, const CallIdentity&,
                                const HttpRequest&) {
  return Json{{"object", "list"}, {"data", Json::array({ModelJson(*parts.model)})}};
}

absl::StatusOr<Json> GetModel(const ServiceParts& parts, const CallIdentity&,
                              const HttpRequest& request) {
  const std::string name = NameIn(request);
  if (absl::Status status = CheckModelName(name, *parts.model); !status.ok()) return status;
  return ModelJson(*parts.model);
}

absl::StatusOr<Json> Tokenize(const ServiceParts& parts, const CallIdentity& identity,
                              const HttpRequest& request) {
  auto asked = ReadOpenAi(OpenAiKind::kTokenize, request.body(), parts.limits);
  if (!asked.ok()) return asked.status();
  const auto ids = TokeniseAsked(parts, identity, asked->ask.model, std::move(asked->ask.prompt),
                                 std::move(asked->ask.violations));
  if (!ids.ok()) return ids.status();
  return Json{
      {"count", ids->size()}, {"max_model_len", parts.model->context_tokens}, {"tokens", *ids}};
}

absl::StatusOr<Json> Detokenize(const ServiceParts& parts, const CallIdentity&,
                                const HttpRequest& request) {
  const auto asked = ReadOpenAi(OpenAiKind::kDetokenize, request.body(), parts.limits);
  if (!asked.ok()) return asked.status();
  if (!asked->ask.violations.empty()) return InvalidFields(asked->ask.violations);
  auto text = DetokeniseAsked(parts, asked->ask.model, asked->tokens, false);
  if (!text.ok()) return text.status();
  return Json{{"prompt", *std::move(text)}};
}

// For probes and people: neither counted nor logged.
asio::awaitable<void> Health(const HttpRoutes& routes, HttpExchange& exchange) {
  const Readiness verdict = routes.readiness();
  const Json body = {{"status", verdict.ready ? "ok" : verdict.reason}};
  HttpReply reply = {.status = verdict.ready ? 200 : 503, .body = Dump(body)};
  co_await exchange.Reply(std::move(reply));
}

asio::awaitable<void> Version(const HttpRoutes&, HttpExchange& exchange) {
  const Json body = {{"version", kVersion}};
  HttpReply reply = {.body = Dump(body)};
  co_await exchange.Reply(std::move(reply));
}

template <OpenAiKind kind>
asio::awaitable<void> Complete(const HttpRoutes& routes, HttpExchange& exchange) {
  co_await AnswerCompletion(routes.parts(), exchange, kind);
}

constexpr std::array<HttpRoute, 8> kRoutes = {{
    {"POST", "/v1/chat/completions", Method::kChat, false, Complete<OpenAiKind::kChat>},
    {"POST", "/v1/completions", Method::kCompletion, false, Complete<OpenAiKind::kCompletion>},
    {"GET", "/v1/models", Method::kGetModel, false, AtOnce<Method::kGetModel, ListModels>},
    {"GET", "/v1/models/", Method::kGetModel, false, AtOnce<Method::kGetModel, GetModel>},
    {"POST", "/tokenize", Method::kTokenize, false, AtOnce<Method::kTokenize, Tokenize>},
    {"POST", "/detokenize", Method::kDetokenize, false, AtOnce<Method::kDetokenize, Detokenize>},
    {"GET", "/health", Method::kOther, true, Health},
    {"GET", "/version", Method::kOther, true, Version},
}};

// What of the header is wrong whatever the route; "" when nothing is.
std::string FormFault(const HttpHeader& header) {
  const std::string_view target = View(header.target());
  if (target.empty() || target[0] != '/') {
    return "the request names no path; send the path alone, as POST /v1/chat/completions";
  }
  if (header.count(http::field::host) > 1 ||
      (header.version() >= 11 && header.count(http::field::host) == 0)) {
    return "the request needs exactly one Host field";
  }
  const std::string_view host = View(header[http::field::host]);
  if (!std::all_of(host.begin(), host.end(), [](unsigned char c) {
        return std::isalnum(c) != 0 ||
               std::string_view("-._:[]").find(static_cast<char>(c)) != std::string_view::npos;
      })) {
    return "the Host field holds a character that no host's name has";
  }
  if (header.count(http::field::transfer_encoding) > 0 &&
      !boost::beast::iequals(header[http::field::transfer_encoding], "chunked")) {
    return "of transfer encodings only chunked is read; send the body as it is";
  }
  return "";
}

// A browser names the site whose page asks. Where nobody needs a key only pages of this machine
// may: a site whose name was made to lead here for a moment would otherwise be taken for one.
std::string OriginFault(const HttpHeader& header) {
  std::string_view origin = View(header[http::field::origin]);
  if (origin.empty()) return "";
  if (const size_t at = origin.find("://"); at != origin.npos) origin.remove_prefix(at + 3);
  const bool is_v6 = origin.starts_with('[');
  const std::string host(is_v6 ? origin.substr(1, origin.find(']') - 1)
                               : origin.substr(0, origin.rfind(':')));
  boost::system::error_code error;
  asio::ip::make_address(host, error);
  if (!error || host == "localhost") return "";
  return absl::StrCat("a page of the site \"", host,
                      "\" asks, and without --keys only pages of this machine may; open the page "
                      "by its IP address or as localhost, or start the service with --keys");
}

// A body is JSON and says so. No browser sends that type to another site by itself, so no web page
// can use a service that listens on its reader's machine.
std::string TypeFault(const HttpHeader& header) {
  std::string_view type = View(header[http::field::content_type]);
  type = type.substr(0, type.find(';'));
  if (!absl::EqualsIgnoreCase(absl::StripAsciiWhitespace({type.data(), type.size()}),
                              "application/json")) {
    return "the body's Content-Type must be application/json";
  }
  const auto encoding = header[http::field::content_encoding];
  if (!encoding.empty() && !boost::beast::iequals(encoding, "identity")) {
    return "compressed bodies are not read; send the JSON as it is, without Content-Encoding";
  }
  return "";
}

}  // namespace

bool HttpRoute::Matches(std::string_view target_path) const {
  const std::string_view own = path;
  if (own.back() != '/') return target_path == own;
  return target_path.size() > own.size() && target_path.starts_with(own) &&
         target_path.find_first_of("/%", own.size()) == std::string_view::npos;
}

std::span<const HttpRoute> HttpRoutes::Table() { return kRoutes; }

std::optional<HttpReply> HttpRoutes::Judge(const HttpHeader& header) const {
  CallIdentity identity;
  identity.request_id = MakeRequestId();
  if (const std::string fault = FormFault(header); !fault.empty()) {
    return Refuse(Method::kOther, identity, absl::InvalidArgumentError(fault), 400);
  }
  const std::string_view path = PathOf(header);
  const HttpRoute* route = nullptr;
  std::vector<std::string> verbs;
  Method method = Method::kOther;
  bool open = false;
  for (const HttpRoute& row : kRoutes) {
    if (!row.Matches(path)) continue;
    verbs.push_back(row.verb);
    method = row.method;
    open = row.open;
    if (View(header.method_string()) == row.verb) route = &row;
  }
  if (!open) {
    const absl::Status known = ReadIdentity(header, parts_, &identity);
    if (!known.ok()) return Refuse(method, identity, known, HttpStatusOf(known));
  }
  if (verbs.empty()) {
    std::vector<std::string> paths;
    for (const HttpRoute& row : kRoutes) paths.push_back(absl::StrCat(row.verb, " ", row.path));
    return Refuse(method, identity,
                  absl::NotFoundError(absl::StrCat("there is nothing at this path; there are ",
                                                   absl::StrJoin(paths, ", "))),
                  404);
  }
  if (route == nullptr) {
    HttpReply reply = Refuse(method, identity,
                             absl::UnimplementedError(absl::StrCat(
                                 "this path is for ", absl::StrJoin(verbs, " and "), " alone")),
                             405);
    reply.headers.emplace_back("allow", absl::StrJoin(verbs, ", "));
    return reply;
  }
  if (parts_.keys == nullptr) {
    if (const std::string fault = OriginFault(header); !fault.empty()) {
      return Refuse(method, identity, absl::PermissionDeniedError(fault), 403);
    }
  }
  if (std::string_view(route->verb) != "POST") return std::nullopt;
  const std::string fault = TypeFault(header);
  if (fault.empty()) return std::nullopt;
  return Refuse(method, identity, absl::UnimplementedError(fault), 415);
}

asio::awaitable<void> HttpRoutes::Answer(HttpExchange& exchange) const {
  const HttpRequest& request = exchange.request();
  for (const HttpRoute& row : kRoutes) {
    if (row.Matches(PathOf(request)) && View(request.method_string()) == row.verb) {
      co_await row.answer(*this, exchange);
      co_return;
    }
  }
}

HttpReply HttpRoutes::Refuse(Method method, const CallIdentity& identity,
                             const absl::Status& status, int http_status) const {
  Count(parts_, method, identity, status, parts_.clock->NowNs());
  HttpReply reply = ErrorReply(status);
  if (http_status != reply.status) {
    reply = ErrorReply(http_status, {.message = std::string(status.message())});
  }
  AddIds(identity, &reply.headers);
  return reply;
}

}  // namespace tuppence
