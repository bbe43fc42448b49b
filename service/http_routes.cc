#include "service/http_routes.h"

#include <algorithm>
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
#include "service/http_answer.h"
#include "service/http_files.h"
#include "service/http_handlers.h"
#include "service/http_upload.h"
#include "service/openai_errors.h"
#include "service/openai_request.h"
#include "service/rpc_status.h"
#include "service/token_calls.h"
#include "service/version.h"

namespace tuppence {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using Json = nlohmann::ordered_json;

std::string_view View(boost::beast::string_view text) { return {text.data(), text.size()}; }

// An alias has an entry of its own, for programs that look for their model's name in the list; what
// it stands for is its parent.
Json ModelJson(const ServedModel& model, const std::string& name) {
  Json json = {{"id", name},
               {"object", "model"},
               {"created", model.loaded_unix_seconds},
               {"owned_by", "tuppence"},
               {"max_model_len", model.context_tokens}};
  if (name != model.name) json["parent"] = model.name;
  return json;
}

absl::StatusOr<Json> ListModels(const ServiceParts& parts, const CallIdentity&,
                                const HttpRequest&) {
  const ServedModel& model = *parts.model;
  Json data = Json::array({ModelJson(model, model.name)});
  for (const std::string& alias : model.aliases) data.push_back(ModelJson(model, alias));
  return Json{{"object", "list"}, {"data", std::move(data)}};
}

absl::StatusOr<Json> GetModel(const ServiceParts& parts, const CallIdentity&,
                              const HttpRequest& request) {
  const std::string name = NameIn(request);
  if (absl::Status status = CheckModelName(name, *parts.model); !status.ok()) return status;
  return ModelJson(*parts.model, name);
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

// For probes and people, whom nobody needs to know: but where they name the call and are known, the
// name goes back.
void AddIdsOfOpen(const HttpRoutes& routes, const HttpExchange& exchange, HttpReply* reply) {
  CallIdentity identity;
  ReadIdentity(exchange.request(), routes.parts(), &identity).IgnoreError();
  AddIds(identity, &reply->headers);
}

// Neither counted nor logged: among lines of a probe each second nobody finds those of callers.
asio::awaitable<void> Health(const HttpRoutes& routes, HttpExchange& exchange) {
  const Readiness verdict = routes.readiness();
  const Json body = {{"status", verdict.ready ? "ok" : verdict.reason}};
  HttpReply reply = {.status = verdict.ready ? 200 : 503, .body = DumpJson(body)};
  AddIdsOfOpen(routes, exchange, &reply);
  co_await exchange.Reply(std::move(reply));
}

asio::awaitable<void> Version(const HttpRoutes& routes, HttpExchange& exchange) {
  const Json body = {{"version", kVersion}};
  HttpReply reply = {.body = DumpJson(body)};
  AddIdsOfOpen(routes, exchange, &reply);
  co_await exchange.Reply(std::move(reply));
}

template <OpenAiKind kind>
asio::awaitable<void> Complete(const HttpRoutes& routes, HttpExchange& exchange) {
  co_await AnswerCompletion(routes.parts(), exchange, kind);
}

using enum BodyKind;

constexpr HttpRoute kRoutes[] = {
    {"POST", "/v1/chat/completions", kJson, Method::kChat, false, Complete<OpenAiKind::kChat>},
    {"POST", "/v1/completions", kJson, Method::kCompletion, false,
     Complete<OpenAiKind::kCompletion>},
    {"GET", "/v1/models", kNone, Method::kGetModel, false, AtOnce<Method::kGetModel, ListModels>},
    {"GET", "/v1/models/*", kNone, Method::kGetModel, false, AtOnce<Method::kGetModel, GetModel>},
    {"POST", "/v1/files", kUpload, Method::kFiles, false, UploadFile},
    {"GET", "/v1/files", kNone, Method::kFiles, false, AtOnce<Method::kFiles, ListFiles>},
    {"GET", "/v1/files/*", kNone, Method::kFiles, false, AtOnce<Method::kFiles, GetFile>},
    {"DELETE", "/v1/files/*", kNone, Method::kFiles, false, AtOnce<Method::kFiles, DeleteFile>},
    {"GET", "/v1/files/*/content", kNone, Method::kFiles, false, SendFileContent},
    {"POST", "/v1/batches", kJson, Method::kBatches, false, AtOnce<Method::kBatches, CreateBatch>},
    {"GET", "/v1/batches", kNone, Method::kBatches, false, AtOnce<Method::kBatches, ListBatches>},
    {"GET", "/v1/batches/*", kNone, Method::kBatches, false, AtOnce<Method::kBatches, GetBatch>},
    {"POST", "/v1/batches/*/cancel", kNone, Method::kBatches, false,
     AtOnce<Method::kBatches, CancelBatch>},
    {"POST", "/tokenize", kJson, Method::kTokenize, false, AtOnce<Method::kTokenize, Tokenize>},
    {"POST", "/detokenize", kJson, Method::kDetokenize, false,
     AtOnce<Method::kDetokenize, Detokenize>},
    {"GET", "/health", kNone, Method::kOther, true, Health},
    {"GET", "/ping", kNone, Method::kOther, true, Health},
    {"GET", "/version", kNone, Method::kOther, true, Version},
};

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
  // Also where they agree, and as one list of equal numbers, which the parser takes.
  if (header.count(http::field::content_length) > 1 ||
      View(header[http::field::content_length]).find(',') != std::string_view::npos) {
    return "the request needs at most one Content-Length field, with one number";
  }
  if (header.count(http::field::transfer_encoding) > 1) {
    return "the request needs at most one Transfer-Encoding field";
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
std::string TypeFault(const HttpHeader& header, const char* wanted) {
  std::string_view type = View(header[http::field::content_type]);
  type = type.substr(0, type.find(';'));
  if (!absl::EqualsIgnoreCase(absl::StripAsciiWhitespace({type.data(), type.size()}), wanted)) {
    return absl::StrCat("the body's Content-Type must be ", wanted);
  }
  const auto encoding = header[http::field::content_encoding];
  if (!encoding.empty() && !boost::beast::iequals(encoding, "identity")) {
    return "compressed bodies are not read; send the body as it is, without Content-Encoding";
  }
  return "";
}

// A form, unlike JSON, any web page may send to another site, and its browser says whose page it
// is. With a key in its header it is no browser's doing.
bool IsAnotherSitesForm(const HttpHeader& header) {
  return header.count(http::field::origin) > 0 && header.count(http::field::authorization) == 0;
}

const HttpRoute* FindRoute(const HttpHeader& header) {
  // HEAD is GET without the answer's body, which the connection leaves out.
  const bool is_head = header.method() == http::verb::head;
  const std::string_view verb = is_head ? "GET" : View(header.method_string());
  for (const HttpRoute& row : kRoutes) {
    if (row.Matches(PathOf(header)) && verb == row.verb) return &row;
  }
  return nullptr;
}

}  // namespace

bool HttpRoute::Matches(std::string_view target_path) const {
  const std::string_view own = path;
  const size_t star = own.find('*');
  if (star == std::string_view::npos) return target_path == own;
  if (!target_path.starts_with(own.substr(0, star))) return false;
  const std::string_view rest = target_path.substr(star);
  const size_t end = std::min(rest.find_first_of("/%"), rest.size());
  return end > 0 && rest.substr(end) == own.substr(star + 1);
}

std::span<const HttpRoute> HttpRoutes::Table() { return kRoutes; }

std::optional<HttpReply> HttpRoutes::Judge(const HttpHeader& header) const {
  CallIdentity identity;
  identity.request_id = MakeRequestId();
  if (const std::string fault = FormFault(header); !fault.empty()) {
    return Refuse(Method::kOther, identity, absl::InvalidArgumentError(fault), 400);
  }
  const std::string_view path = PathOf(header);
  const HttpRoute* route = FindRoute(header);
  std::vector<std::string> verbs;
  Method method = Method::kOther;
  bool open = false;
  for (const HttpRoute& row : kRoutes) {
    if (!row.Matches(path)) continue;
    verbs.push_back(row.verb);
    if (verbs.back() == "GET") verbs.push_back("HEAD");
    method = row.method;
    open = row.open;
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
  if (route->body == kNone) return std::nullopt;
  if (route->body == kUpload && IsAnotherSitesForm(header)) {
    return Refuse(method, identity,
                  absl::PermissionDeniedError(
                      "a form that a web page sends needs a key; send it from a program, or with "
                      "Authorization"),
                  403);
  }
  const std::string fault =
      TypeFault(header, route->body == kJson ? "application/json" : "multipart/form-data");
  if (fault.empty()) return std::nullopt;
  return Refuse(method, identity, absl::UnimplementedError(fault), 415);
}

bool HttpRoutes::TakesUpload(const HttpHeader& header) const {
  const HttpRoute* route = FindRoute(header);
  return route != nullptr && route->body == kUpload;
}

asio::awaitable<void> HttpRoutes::Answer(HttpExchange& exchange) const {
  if (const HttpRoute* route = FindRoute(exchange.request()); route != nullptr) {
    co_await route->answer(*this, exchange);
  }
}

HttpReply HttpRoutes::Fault(int http_status, const std::string& message) const {
  absl::StatusCode code = absl::StatusCode::kResourceExhausted;  // 413, 431: as over gRPC
  if (http_status == 400) code = absl::StatusCode::kInvalidArgument;
  if (http_status == 408) code = absl::StatusCode::kDeadlineExceeded;
  CallIdentity identity;
  identity.request_id = MakeRequestId();
  return Refuse(Method::kOther, identity, absl::Status(code, message), http_status);
}

HttpReply HttpRoutes::Refuse(Method method, const CallIdentity& identity,
                             const absl::Status& status, int http_status) const {
  CountCall(parts_, method, identity, status, parts_.clock->NowNs());
  HttpReply reply = ErrorReply(status);
  if (http_status != reply.status) {
    reply = ErrorReply(http_status, {.message = std::string(status.message())});
  }
  AddOwnHeaders(parts_, identity, &reply.headers);
  return reply;
}

}  // namespace tuppence
