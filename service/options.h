// Options: every setting of `tuppence serve`, with its default. Each is a flag, an environment
// variable TUPPENCE_<NAME> and a line of the --config file; the flag wins over the variable, the
// variable over the file. Filled by AddServeFlags, read by serve and model_loader.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "service/rate_source.h"

namespace CLI {
class App;
}

namespace tuppence {

// What decides how a model is loaded and run; also those of `score --model`.
struct ModelOptions {
  std::string model;       // a checkpoint folder, "synthetic:NAME" or "null"
  std::string model_name;  // "": the folder's name
  std::vector<std::string> model_aliases;
  std::string backend = "auto";
  std::string weights = "bf16";
  int32_t weights_group = 0;          // 0: the type's own
  std::string weights_cache = "off";  // or "on", or a folder
  std::string kv = "bf16";
  uint64_t kv_memory_bytes = 0;  // 0: from the memory found
  std::string kernels = "auto";
  std::string deterministic = "on";
  int threads = 0;  // 0: as found
  int32_t sequences_max = 256;
  int32_t step_tokens_max = 512;
  std::string chat_template = "auto";
  std::string rope_policy = "exact";
};

struct ServeOptions {
  ModelOptions model;

  std::string host = "127.0.0.1";
  int port = 8033;
  std::string http_host = "127.0.0.1";
  int http_port = -1;  // below 0: no HTTP door
  std::string admin_host = "127.0.0.1";
  int admin_port = 8034;
  std::string page = "auto";
  std::string tls_cert;
  std::string tls_key;
  std::string tls_client_ca;

  int64_t queue_requests_max = 4096;
  int64_t queue_tokens_max = int64_t{4} << 20;
  int64_t tenant_requests_max = 4096;
  int64_t tenant_tokens_max = int64_t{4} << 20;
  std::string prefix_cache = "on";
  std::string tenants;  // a file; "": all are alike
  std::string keys;     // a file; "": nobody needs one
  std::string tenant_header;
  bool strict = false;

  uint64_t message_bytes_max = 4 << 20;
  uint64_t http_body_bytes_max = 2 << 20;
  uint64_t metadata_bytes_max = 16 << 10;
  uint64_t prompt_bytes_max = 0;  // 0: from the context
  double deadline_max_seconds = 3600;
  double stall_seconds = 30;
  double hang_seconds = 60;
  double drain_seconds = 30;
  double keepalive_seconds = 20;
  double keepalive_timeout_seconds = 10;
  double connection_age_seconds = 0;  // 0: no limit

  RateOptions rates;
  std::string reference_price;  // a name or a file; "": none
  std::string usage_store;      // "": nothing is kept
  std::string when_unrecordable = "refuse";
  int keep_requests_days = 90;
  std::string instance;   // "": the host's name
  std::string files_dir;  // "": no files, no batches over HTTP
  uint64_t files_bytes_max = uint64_t{10} << 30;
  double period_seconds = 60;  // of the books
  int files_keep_days = 30;    // 0: until they are deleted
  std::string write_trace;     // "": no trace is kept
  double itl_target_ms = 100;  // of running streams; 0: no limit in time
  int64_t conservation_drill_ns = 0;

  std::string log_level = "info";
  bool check = false;
  std::string config;
};

void AddModelFlags(CLI::App& app, ModelOptions* options);
void AddServeFlags(CLI::App& app, ServeOptions* options);

// Puts the settings of a --config file behind the arguments, as flags, but for those that the
// arguments or the environment set. `app` is the command whose flags these are; arguments[0] is the
// first after the command's name. INVALID_ARGUMENT for a file that cannot be read, a line that is
// no setting, a setting that is no flag.
absl::StatusOr<std::vector<std::string>> WithConfigFile(const CLI::App& app,
                                                        std::vector<std::string> arguments);

// Kubernetes sets TUPPENCE_PORT=tcp://10.0.0.1:8033 in every pod beside a Service named "tuppence".
// That is not our port: such values are taken out of the environment. Call it before parsing.
void DropServiceLinks();

}  // namespace tuppence
