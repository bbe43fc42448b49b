#include "service/options.h"

#include <CLI/CLI.hpp>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "model/chat_template.h"

namespace tuppence {
namespace {

std::string EnvironmentName(const std::string& flag) {
  std::string name = absl::StrCat("TUPPENCE_", absl::StrReplaceAll(flag, {{"-", "_"}}));
  for (char& c : name) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

// One row of the table of flags: name, where it goes, help; every row has its variable.
class Table {
 public:
  explicit Table(CLI::App& app) : app_(app) {}

  void Group(const char* name) { group_ = name; }

  template <typename Value>
  CLI::Option* Add(const std::string& name, Value* value, const std::string& help) {
    return Finish(name,
                  app_.add_option(absl::StrCat("--", name), *value, help)->capture_default_str());
  }
  CLI::Option* AddBytes(const std::string& name, uint64_t* value, const std::string& help) {
    return Finish(name, app_.add_option(absl::StrCat("--", name), *value, help)
                            ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false))
                            ->type_name("BYTES")
                            ->capture_default_str());
  }
  CLI::Option* AddSwitch(const std::string& name, bool* value, const std::string& help) {
    return Finish(name, app_.add_flag(absl::StrCat("--", name), *value, help));
  }
  CLI::Option* AddSeconds(const std::string& name, double* value, const std::string& help) {
    return Add(name, value, help)->check(CLI::Range(0.0, 1e7))->type_name("SECONDS");
  }

 private:
  CLI::Option* Finish(const std::string& name, CLI::Option* option) {
    return option->envname(EnvironmentName(name))->group(group_);
  }

  CLI::App& app_;
  std::string group_ = "Options";
};

void AddLimits(Table& table, ServeOptions* options) {
  table.Group("Limits");
  const auto positive = CLI::Range(int64_t{1}, int64_t{1} << 40);
  table
      .Add("queue-requests-max", &options->queue_requests_max,
           "requests accepted and not finished, of all callers; more get UNAVAILABLE")
      ->check(positive);
  table
      .Add("queue-tokens-max", &options->queue_tokens_max,
           "prompt tokens of those requests, of all callers")
      ->check(positive);
  table
      .Add("tenant-requests-max", &options->tenant_requests_max,
           "the same for each tenant; more get RESOURCE_EXHAUSTED")
      ->check(positive);
  table
      .Add("tenant-tokens-max", &options->tenant_tokens_max,
           "prompt tokens of each tenant's requests")
      ->check(positive);
  table
      .Add("prefix-cache", &options->prefix_cache,
           "prompts that begin as an earlier one of their tenant did are computed from where they "
           "part; the same bits either way")
      ->check(CLI::IsMember({"on", "off"}));
  table
      .Add("tenants", &options->tenants,
           "what each tenant is granted (JSON): weight, classes, limits; read again on SIGHUP")
      ->type_name("FILE");
  table
      .Add("keys", &options->keys,
           "who may call: hashes of the keys that callers must show, over gRPC and HTTP, and whose "
           "they are (JSON, made by `tuppence key add`); read again on SIGHUP; without it nobody "
           "needs one")
      ->type_name("FILE");
  table.Add("tenant-header", &options->tenant_header,
            "metadata key that names the tenant, set by a trusted hop; without one everybody is "
            "tenant \"unknown\"");
  table.AddSwitch("strict", &options->strict, "refuse requests with fields that are not known");
  table.AddBytes("message-bytes-max", &options->message_bytes_max, "of one request message")
      ->check(CLI::Range(uint64_t{1024}, uint64_t{1} << 30));
  table
      .AddBytes("http-body-bytes-max", &options->http_body_bytes_max, "of one HTTP request's body")
      ->check(CLI::Range(uint64_t{1024}, uint64_t{1} << 30));
  table
      .AddBytes("metadata-bytes-max", &options->metadata_bytes_max,
                "of one call's metadata, or of its HTTP header")
      ->check(CLI::Range(uint64_t{1024}, uint64_t{1} << 20));
  table.AddBytes("prompt-bytes-max", &options->prompt_bytes_max,
                 "of a prompt's text, seen before tokenising; 0: 32 for each token of context");
  table.AddSeconds("deadline-max-seconds", &options->deadline_max_seconds,
                   "longest time for one request; later or absent deadlines become this");
  table.AddSeconds("stall-seconds", &options->stall_seconds,
                   "a caller that takes nothing for so long is cut off");
  table
      .Add("itl-target-ms", &options->itl_target_ms,
           "time between two tokens of a running answer that counts as good service: prompts are "
           "cut so that a step stays within it, by the fitted model, and capacity is measured "
           "against it; 0: chunks follow from --step-tokens-max alone")
      ->check(CLI::Range(0.0, 1e7))
      ->type_name("MS");
  table.AddSeconds("hang-seconds", &options->hang_seconds,
                   "an engine without progress for so long makes the service not ready");
  table.AddSeconds("drain-seconds", &options->drain_seconds,
                   "time for running requests to finish after SIGTERM or Ctrl-C");
  table.AddSeconds("keepalive-seconds", &options->keepalive_seconds,
                   "a silent connection is pinged after this time");
  table.AddSeconds("keepalive-timeout-seconds", &options->keepalive_timeout_seconds,
                   "and closed when no answer comes in this time");
  table.AddSeconds(
      "connection-age-seconds", &options->connection_age_seconds,
      "connections are closed, between calls, at this age, so that clients spread over "
      "replicas; 0: never");
}

std::set<std::string> FlagsOf(const CLI::App& app) {
  std::set<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.insert(name);
  }
  names.erase("help");
  names.erase("config");
  return names;
}

// The value of --NAME in the arguments; none where it is not there.
std::optional<std::string> ValueIn(const std::vector<std::string>& arguments,
                                   const std::string& name) {
  const std::string flag = absl::StrCat("--", name);
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == flag) return i + 1 < arguments.size() ? arguments[i + 1] : "";
    if (absl::StartsWith(arguments[i], flag + "=")) return arguments[i].substr(flag.size() + 1);
  }
  return std::nullopt;
}

std::vector<std::string> ChatTemplateChoices() {
  std::vector<std::string> choices = {"auto", "none"};
  for (const std::string_view name : ChatTemplate::Names()) choices.emplace_back(name);
  return choices;
}

}  // namespace

void AddModelFlags(CLI::App& app, ModelOptions* options) {
  Table table(app);
  table.Group("Model");
  table
      .Add("model", &options->model,
           "checkpoint folder as downloaded; synthetic:NAME for random weights of a published "
           "shape; "
           "null for an engine that answers at once, to measure everything else")
      ->type_name("DIR");
  table.Add("model-name", &options->model_name,
            "name that callers see; the folder's, where none is given");
  table
      .Add("model-alias", &options->model_aliases,
           "names, with commas, by which callers may ask for it too, as gpt-4o-mini: their code "
           "then need not change")
      ->delimiter(',')
      ->type_name("NAMES");
  table.Add("backend", &options->backend,
            "auto takes a GPU where there is one that we run on, and says why; cuda, cpu");
  table.Add("weights", &options->weights, "type that weights are kept as")
      ->check(CLI::IsMember({"bf16", "f16", "f32", "int8", "int4"}));
  table
      .Add("weights-group", &options->weights_group,
           "values that share a scale, int8 and int4; 0: 128 for int8, 32 for int4")
      ->check(CLI::IsMember({0, 32, 64, 128}));
  table.Add(
      "weights-cache", &options->weights_cache,
      "keep the weights as they lie in memory in a file, which a second start reads in seconds: "
      "on (beside the checkpoint), a folder, or off");
  table.Add("kv", &options->kv, "type that keys and values are kept as")
      ->check(CLI::IsMember({"bf16", "f16", "f32", "int8"}));
  table.AddBytes(
      "kv-memory", &options->kv_memory_bytes,
      "for keys and values, as 512M or 4G; 0: 512 tokens for each of --sequences-max, at least "
      "two full contexts, at most 80 % of the memory that is left");
  table
      .Add("kernels", &options->kernels,
           "kernel path of the CPU; auto takes the one measured best for this kind of CPU")
      ->check(CLI::IsMember({"auto", "plain", "avx2", "avx512", "avx512bf16", "amx"}));
  table
      .Add("deterministic", &options->deterministic,
           "on: an answer has the same tokens whatever shares its batch; off, on a GPU: 16-bit "
           "weights multiply by cuBLAS, faster for long prompts, and it may not")
      ->check(CLI::IsMember({"on", "off"}));
  table.Add("threads", &options->threads, "for computing; 0: cores that this process may use")
      ->check(CLI::Range(0, 1024));
  table.Add("sequences-max", &options->sequences_max, "answers that grow at the same time")
      ->check(CLI::Range(1, 65536));
  table
      .Add(
          "step-tokens-max", &options->step_tokens_max,
          "tokens of one step: more is faster for long prompts, fewer keeps running answers fluent")
      ->check(CLI::Range(16, 65536));
  table
      .Add("chat-template", &options->chat_template,
           "auto recognises the checkpoint's own; none serves without chat")
      ->check(CLI::IsMember(ChatTemplateChoices()));
  table
      .Add(
          "rope-policy", &options->rope_policy,
          "LongRoPE: exact switches factors at the crossing, as published, and computes the prompt "
          "again; admission decides once, by prompt + max_tokens")
      ->check(CLI::IsMember({"exact", "admission"}));
}

void AddServeFlags(CLI::App& app, ServeOptions* options) {
  AddModelFlags(app, &options->model);
  Table table(app);
  table.Group("Doors");
  table.Add("host", &options->host, "address for gRPC; 0.0.0.0 lets other machines in");
  table.Add("port", &options->port, "for gRPC; 0: any free one, which the log then names")
      ->check(CLI::Range(0, 65535));
  table.Add("http-host", &options->http_host,
            "address for the OpenAI-compatible API; 0.0.0.0 lets other machines in");
  table
      .Add("http-port", &options->http_port,
           "for the OpenAI-compatible API over HTTP, as 8000; 0: any free one; below 0: none")
      ->check(CLI::Range(-1, 65535));
  table.Add("admin-host", &options->admin_host, "address for /healthz, /readyz and /metrics");
  table.Add("admin-port", &options->admin_port, "for plain HTTP; 0: any free one")
      ->check(CLI::Range(0, 65535));
  table
      .Add(
          "page", &options->page,
          "a page to chat on at / of the admin port; auto: where callers show keys, or the port is "
          "this machine's alone")
      ->check(CLI::IsMember({"auto", "on", "off"}));
  table.Add("tls-cert", &options->tls_cert, "server certificate, PEM, intermediates after it")
      ->type_name("FILE");
  table.Add("tls-key", &options->tls_key, "its private key, PEM, unencrypted")->type_name("FILE");
  table
      .Add("tls-client-ca", &options->tls_client_ca,
           "mutual TLS: clients must show a certificate of this authority")
      ->type_name("FILE");
  AddLimits(table, options);
  table.Group("Files and batches");
  table
      .Add("files-dir", &options->files_dir,
           "turns /v1/files and /v1/batches on, and is where their files lie: the one place where "
           "prompts and answers are written to a disk, because callers upload and download them")
      ->type_name("DIR");
  table
      .AddBytes("files-bytes-max", &options->files_bytes_max,
                "of all these files together, uploads and results")
      ->check(CLI::Range(uint64_t{1} << 20, uint64_t{1} << 50));
  table
      .Add("files-keep-days", &options->files_keep_days,
           "each file is removed after so long, earlier where its caller asks; 0: when its caller "
           "deletes it")
      ->check(CLI::Range(0, 3650));
  table.Group("Cost");
  table
      .Add("price-per-hour", &options->rates.price_per_hour,
           "what this machine costs, USD an hour, as 0.526; below 0: unknown, and answers carry "
           "machine time alone")
      ->check(CLI::Range(-1.0, 1e6))
      ->type_name("USD");
  table.Add("rate-card-id", &options->rates.rate_card_id,
            "name of that price in answers and records; price-0.526 and the like otherwise");
  table
      .Add("rate-cards", &options->rates.rate_cards,
           "what this machine costs from when on (JSON); read again on SIGHUP")
      ->type_name("FILE");
  table
      .Add("machine", &options->rates.machine,
           "what this machine costs by the table of public list prices, as aws-g4dn.xlarge")
      ->type_name("NAME");
  table
      .Add("machine-share", &options->rates.machine_share,
           "the part of the machine that is this service's, above 0 and at most 1")
      ->type_name("SHARE");
  table
      .Add("reference-price", &options->reference_price,
           "model API to compare each answer with: a name of deploy/reference_prices.json, as "
           "gpt-4o-mini, or a file with an entry of that form")
      ->type_name("NAME|FILE");
  table
      .Add("usage-store", &options->usage_store,
           "the books: a row for each request, durable before its last message, and the periods "
           "that invoices are made of (SQLite; made where it does not exist); without one nothing "
           "is kept")
      ->type_name("FILE");
  table
      .Add("when-unrecordable", &options->when_unrecordable,
           "while the store cannot be written: refuse new requests, or serve them, marked "
           "unrecorded and billed to nobody")
      ->check(CLI::IsMember({"refuse", "serve"}));
  table
      .Add("keep-requests-days", &options->keep_requests_days,
           "rows of requests are removed from the store after so long; periods stay 400 days")
      ->check(CLI::Range(1, 400));
  table.Add("instance", &options->instance,
            "this machine's name in the store, as its bill has it; the host's name otherwise");
  table
      .Add("period-seconds", &options->period_seconds,
           "length of a period of the books, at most a quarter-hour; for tests alone: shorter ones "
           "make the store large, and a kill leaves less unaccounted")
      ->check(CLI::Range(0.01, 900.0))
      ->type_name("SECONDS");
  table
      .Add("write-trace", &options->write_trace,
           "appends a line for each request, for `tuppence plan --trace`: when it came, its tokens "
           "in and out, tenant and class; never text")
      ->type_name("FILE");
  table
      .Add("conservation-drill-ns", &options->conservation_drill_ns,
           "a fire drill: shown as the ledger's error in /metrics, to see its alert fire")
      ->check(CLI::NonNegativeNumber)
      ->group("");  // hidden
  table.Group("Running");
  table.Add("log-level", &options->log_level, "of gRPC's and the service's own messages")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}));
  table.AddSwitch("check", &options->check,
                  "verify everything, print settings and the memory plan, and exit; a port that "
                  "is in use is a warning, for the service itself may be running; no weight cache "
                  "is read or written");
  table.Add("config", &options->config, "file of settings, one NAME = VALUE a line (TOML)")
      ->type_name("FILE");
}

absl::StatusOr<std::vector<std::string>> WithConfigFile(const CLI::App& app,
                                                        std::vector<std::string> arguments) {
  std::optional<std::string> path = ValueIn(arguments, "config");
  if (const char* variable = std::getenv("TUPPENCE_CONFIG"); !path && variable != nullptr) {
    path = variable;
  }
  if (!path.has_value() || path->empty()) return arguments;
  std::ifstream file(*path);
  if (!file) {
    return absl::InvalidArgumentError(
        absl::StrCat("--config ", *path, ": cannot be read; check the path and its permissions"));
  }
  std::vector<CLI::ConfigItem> items;
  try {
    items = CLI::ConfigTOML().from_config(file);
  } catch (const CLI::Error& error) {
    return absl::InvalidArgumentError(absl::StrCat("--config ", *path, ": ", error.what()));
  }
  const std::set<std::string> flags = FlagsOf(app);
  std::vector<std::string> added;
  for (const CLI::ConfigItem& item : items) {
    if (item.name == "++" || item.name == "--") continue;  // where a section begins and ends
    const std::string name = absl::StrReplaceAll(item.name, {{"_", "-"}});
    if (flags.count(name) == 0 || item.inputs.size() != 1) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--config ", *path, ": \"", item.fullname(),
          flags.count(name) == 0 ? "\" is not a setting; `tuppence serve --help` lists them"
                                 : "\" needs exactly one value"));
    }
    if (ValueIn(arguments, name).has_value()) continue;
    if (std::getenv(EnvironmentName(name).c_str()) != nullptr) continue;
    added.push_back(absl::StrCat("--", name, "=", item.inputs[0]));
  }
  arguments.insert(arguments.end(), added.begin(), added.end());
  return arguments;
}

void DropServiceLinks() {
  for (const char* name : {"TUPPENCE_PORT", "TUPPENCE_HTTP_PORT", "TUPPENCE_ADMIN_PORT"}) {
    const char* value = std::getenv(name);
    if (value != nullptr && absl::StartsWith(value, "tcp://")) unsetenv(name);
  }
}

}  // namespace tuppence
