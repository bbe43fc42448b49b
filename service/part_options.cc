#include "service/part_options.h"

#include <algorithm>
#include <boost/asio/ip/address.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace tuppence {
namespace {

constexpr int64_t kUploadFormBytesMax = 64 << 10;  // of an upload, beside its file

constexpr int64_t kPromptBytesPerToken = 32;

// What capacity is measured against: where there is no target, the default one.
double ItlTargetMs(const ServeOptions& options) {
  return options.itl_target_ms > 0 ? options.itl_target_ms : ServeOptions().itl_target_ms;
}

bool IsLoopback(const std::string& host) {
  boost::system::error_code error;
  const auto address = boost::asio::ip::make_address(host, error);
  return host == "localhost" || (!error && address.is_loopback());
}

}  // namespace

int64_t NsOf(double seconds) { return std::llround(seconds * 1e9); }

AdmissionLimits AdmissionOf(const ServeOptions& options) {
  AdmissionLimits limits;
  limits.requests_max = options.queue_requests_max;
  limits.prompt_tokens_max = options.queue_tokens_max;
  limits.tenant_requests_max = options.tenant_requests_max;
  limits.tenant_prompt_tokens_max = options.tenant_tokens_max;
  return limits;
}

CallLimits CallLimitsOf(const ServeOptions& options, const ServedModel& model) {
  CallLimits limits;
  limits.deadline_max_ns = NsOf(options.deadline_max_seconds);
  limits.prompt_bytes_max =
      options.prompt_bytes_max > 0
          ? static_cast<int64_t>(options.prompt_bytes_max)
          : std::min<int64_t>(kPromptBytesPerToken * model.context_tokens,
                              static_cast<int64_t>(options.message_bytes_max));
  limits.tenant_header = absl::AsciiStrToLower(options.tenant_header);
  limits.strict = options.strict;
  return limits;
}

ServerOptions ServerOptionsOf(const ServeOptions& options) {
  ServerOptions server;
  server.host = options.host;
  server.port = options.port;
  server.tls = {options.tls_cert, options.tls_key, options.tls_client_ca};
  server.message_bytes_max = static_cast<int64_t>(options.message_bytes_max);
  server.metadata_bytes_max = static_cast<int64_t>(options.metadata_bytes_max);
  server.keepalive_ns = NsOf(options.keepalive_seconds);
  server.keepalive_timeout_ns = NsOf(options.keepalive_timeout_seconds);
  server.connection_age_max_ns = NsOf(options.connection_age_seconds);
  server.stall_ns = NsOf(options.stall_seconds);
  server.hang_ns = NsOf(options.hang_seconds);
  return server;
}

HttpServerOptions HttpServerOptionsOf(const ServeOptions& options) {
  HttpServerOptions http;
  http.host = options.http_host;
  http.port = options.http_port;
  http.tls = {options.tls_cert, options.tls_key, options.tls_client_ca};
  http.keepalive_ns = NsOf(options.keepalive_seconds);
  http.keepalive_timeout_ns = NsOf(options.keepalive_timeout_seconds);
  http.limits.header_bytes_max = static_cast<int64_t>(options.metadata_bytes_max);
  http.limits.body_bytes_max = static_cast<int64_t>(options.http_body_bytes_max);
  http.limits.stall_ns = NsOf(options.stall_seconds);
  if (!options.files_dir.empty()) {
    http.limits.upload_bytes_max = kFileBytesMax + kUploadFormBytesMax;
  }
  return http;
}

bool HasPage(const ServeOptions& options) {
  if (options.page != "auto") return options.page == "on";
  return !options.keys.empty() || IsLoopback(options.admin_host);
}

std::string OpenAddresses(const ServeOptions& options) {
  std::vector<std::string> open;
  const auto add = [&open](const char* flag, const std::string& host) {
    if (!IsLoopback(host)) open.push_back(absl::StrCat(flag, " ", host));
  };
  add("--host", options.host);
  if (options.http_port >= 0) add("--http-host", options.http_host);
  if (HasPage(options)) add("--admin-host", options.admin_host);  // whose page asks
  return absl::StrJoin(open, ", ");
}

MetricsOptions MetricsOptionsOf(const ServeOptions& options, const ServedModel& model) {
  MetricsOptions metrics;
  metrics.model_name = model.name;
  metrics.context_tokens = model.context_tokens;
  metrics.capacity = {.sequences_max = model.sequences_max,
                      .pool_tokens = int64_t{model.kv_blocks} * model.kv_block_tokens,
                      .inter_token_target_seconds = ItlTargetMs(options) / 1e3};
  metrics.conservation_drill_ns = options.conservation_drill_ns;
  return metrics;
}

void SetEngineOptions(const ServeOptions& options, int64_t started_ns, const RateCard& rate_card,
                      EngineOptions* engine) {
  engine->inbox_max = static_cast<int32_t>(
      std::min<int64_t>(options.queue_requests_max, std::numeric_limits<int32_t>::max()));
  engine->stall_limit_ns = NsOf(options.stall_seconds);
  engine->itl_target_ns = std::llround(options.itl_target_ms * 1e6);
  engine->prefix_cache = options.prefix_cache == "on";
  engine->process_start_ns = started_ns;
  engine->period_ns = NsOf(options.period_seconds);
  engine->rate_card = rate_card;
}

BookkeeperOptions BookkeeperOptionsOf(const ServeOptions& options,
                                      const std::optional<ReferencePrice>& reference,
                                      std::atomic<bool>* unrecorded, Budgets* budgets) {
  BookkeeperOptions books;
  books.budgets = budgets;
  if (options.when_unrecordable == "serve") books.when_unrecordable = WhenUnrecordable::kServe;
  books.unrecorded = unrecorded;
  if (!reference.has_value()) return books;
  books.reference = [price = *reference, id = reference->id()](const Usage& usage) {
    return ReferenceQuote{
        price.NanoUsd(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens), id};
  };
  return books;
}

absl::StatusOr<std::unique_ptr<FileStore>> OpenFiles(const ServeOptions& options) {
  if (options.files_dir.empty()) return nullptr;
  if (options.http_port < 0) {
    return absl::InvalidArgumentError(
        "--files-dir is for /v1/files and /v1/batches over HTTP, and there is no HTTP door; open "
        "it with --http-port, or leave --files-dir out");
  }
  return FileStore::Open(options.files_dir, static_cast<int64_t>(options.files_bytes_max),
                         int64_t{options.files_keep_days} * 24 * 3600);
}

}  // namespace tuppence
