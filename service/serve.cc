#include "service/serve.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "scheduler/admission.h"
#include "scheduler/clock.h"
#include "scheduler/engine.h"
#include "service/admin_pages.h"
#include "service/admin_server.h"
#include "service/answer_keys.h"
#include "service/api_keys.h"
#include "service/batch_jobs.h"
#include "service/bookkeeper.h"
#include "service/budgets.h"
#include "service/call_registry.h"
#include "service/file_store.h"
#include "service/http_server.h"
#include "service/line_writer.h"
#include "service/metrics.h"
#include "service/model_loader.h"
#include "service/part_options.h"
#include "service/rate_source.h"
#include "service/reference_price.h"
#include "service/request_log.h"
#include "service/server.h"
#include "service/service_counters.h"
#include "service/service_parts.h"
#include "service/signals.h"
#include "service/start_checks.h"
#include "service/tenant_rates.h"
#include "service/tenants.h"
#include "service/trace_writer.h"
#include "service/usage_store.h"
#include "service/version.h"

namespace tuppence {
namespace {

constexpr int kCouldNotStart = 1;
constexpr int kEngineFailed = 3;
constexpr int64_t kLookNs = 200'000'000;         // how often the main thread looks at the engine
constexpr int64_t kLastWordsNs = 2'000'000'000;  // for final messages to leave after the drain
constexpr int32_t kStepRecords = 1024;           // steps that the books may be behind
constexpr int kGiveWayNice = 5;  // at 19 a refusal takes 150 ms where cores are full, at 5 five

// Everything for people goes to standard error; standard output carries the request lines alone.
void SetUpLogging(const std::string& level) {
  auto logger =
      std::make_shared<spdlog::logger>("serve", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %l: %v", spdlog::pattern_time_type::utc);
  logger->set_level(spdlog::level::from_str(level));
  spdlog::set_default_logger(std::move(logger));
  gpr_set_log_function([](gpr_log_func_args* args) {
    const bool error = args->severity == GPR_LOG_SEVERITY_ERROR;
    spdlog::log(error ? spdlog::level::warn : spdlog::level::debug, "gRPC: {}", args->message);
  });
  // A malformed request is its caller's business and answered there; no caller fills our log.
  google::protobuf::SetLogHandler(
      [](google::protobuf::LogLevel, const char*, int, const std::string& message) {
        spdlog::debug("protobuf: {}", message);
      });
}

// What the operator says that things cost.
struct Prices {
  RateSource rates;
  std::optional<ReferencePrice> reference;
};

absl::StatusOr<Prices> ReadPrices(const ServeOptions& options, int64_t utc_ns) {
  Prices prices;
  absl::StatusOr<RateSource> rates = RateSource::Open(options.rates, utc_ns);
  if (!rates.ok()) return rates.status();
  prices.rates = *std::move(rates);
  if (options.reference_price.empty()) return prices;
  absl::StatusOr<ReferencePrice> reference = FindReferencePrice(options.reference_price);
  if (!reference.ok()) return reference.status();
  prices.reference = *std::move(reference);
  return prices;
}

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadAndTell(const ServeOptions& options) {
  LoadOptions load{.model = options.model, .progress = {}};
  int64_t told = 0;
  if (isatty(STDERR_FILENO) != 0) {  // somebody waits in front of it
    load.progress = [&told](int64_t done, int64_t total) {
      const int64_t tenth = total > 0 ? done * 10 / total : 10;
      if (tenth > told) spdlog::info("loading weights: {} %", tenth * 10);
      told = std::max(told, tenth);
    };
  }
  absl::StatusOr<std::unique_ptr<LoadedModel>> loaded = LoadModel(load);
  if (!loaded.ok()) return loaded;
  const ServedModel& model = (*loaded)->served;
  spdlog::info(
      "tuppence {} serves {}: {} million parameters, context {} tokens, weights {}, "
      "keys and values {}",
      kVersion, model.name, model.parameters / 1'000'000, model.context_tokens, model.weight_type,
      model.kv_type);
  for (const std::string& note : (*loaded)->notes) spdlog::info("{}", note);
  if (!(*loaded)->memory_plan.empty()) {
    spdlog::info("memory:");
    for (const absl::string_view line :
         absl::StrSplit((*loaded)->memory_plan, '\n', absl::SkipEmpty())) {
      spdlog::info("{}", std::string(line));
    }
  }
  return loaded;
}

// Null where none is asked for.
absl::StatusOr<std::unique_ptr<UsageStore>> OpenStore(const ServeOptions& options,
                                                      const RateCard& rate_card, int64_t started_ns,
                                                      const Clock* clock) {
  if (options.usage_store.empty()) return nullptr;
  const int64_t started_utc_ns = clock->UtcNs() - (clock->NowNs() - started_ns);
  return UsageStore::Open(
      {.path = options.usage_store, .keep_requests_days = options.keep_requests_days},
      {.instance = options.instance,
       .version = kVersion,
       .rate_card = rate_card,
       .started_ns = started_ns,
       .started_utc_ns = started_utc_ns},
      clock);
}

// Null where nobody needs one.
absl::StatusOr<std::unique_ptr<ApiKeys>> OpenKeys(const ServeOptions& options, const Clock* clock) {
  if (options.keys.empty()) return nullptr;
  if (!options.tenant_header.empty()) {
    return absl::InvalidArgumentError(
        "--keys and --tenant-header both say who calls; leave one of them out");
  }
  return ApiKeys::Open(options.keys, clock);
}

// The ports where callers come in.
struct Doors {
  std::unique_ptr<Server> grpc;
  std::unique_ptr<HttpServer> http;  // null where none is asked for
  BatchJobs* jobs = nullptr;         // those of /v1/batches; null where no files are kept

  // New requests go elsewhere; batches pause.
  void SetNotServing() {
    grpc->SetNotServing();
    if (jobs != nullptr) jobs->Stop();
  }

  // After the engine has ended every request: its last words leave, then everything is closed.
  void Stop() {
    if (http != nullptr) http->Stop(kLastWordsNs);
    grpc->Stop(kLastWordsNs);
  }
};

absl::StatusOr<Doors> OpenDoors(const ServeOptions& options, const ServiceParts& parts) {
  Doors doors;
  doors.jobs = parts.jobs;
  auto grpc = Server::Start(ServerOptionsOf(options), parts);
  if (!grpc.ok()) return grpc.status();
  doors.grpc = *std::move(grpc);
  if (options.http_port < 0 && !HasPage(options)) return doors;
  auto http = HttpServer::Start(HttpServerOptionsOf(options), parts,
                                [server = doors.grpc.get()] { return server->readiness(); });
  if (!http.ok()) return http.status();
  doors.http = *std::move(http);
  return doors;
}

// Takes no new requests, lets the running ones finish in time, ends the rest. A second signal makes
// the time up at once.
void Drain(const ServeOptions& options, const Clock& clock, Signals* signals, Doors* doors,
           Engine* engine, Bookkeeper* books) {
  const int seen = signals->count();
  spdlog::info("draining: no new requests; running ones have {} seconds", options.drain_seconds);
  doors->SetNotServing();
  engine->BeginDrain(clock.NowNs() + NsOf(options.drain_seconds));
  bool forced = false;
  while (!engine->drained()) {
    if (signals->WaitForMoreThan(seen, 20'000'000) > seen && !forced) {
      forced = true;
      spdlog::warn("second signal: ending the requests that still run");
      engine->BeginDrain(clock.NowNs());
    }
  }
  books->FinishTelling();
  doors->Stop();
  const AccountTotals accounts = engine->Snapshot().accounts;
  spdlog::info("drained: {:.1f} s of machine time for requests, {:.1f} s idle",
               accounts.request_ns / 1e9, accounts.idle_ns / 1e9);
}

// Puts each rate card in force when its time comes, and those of the file after a SIGHUP.
void FollowRates(int64_t utc_ns, bool read_again, RateSource* rates, Engine* engine) {
  if (read_again) {
    const absl::Status read = rates->Reload(utc_ns);
    if (read.ok()) {
      spdlog::info("SIGHUP: the rate cards were read again");
    } else {
      spdlog::error("SIGHUP: prices stay as they are: {}", std::string(read.message()));
    }
  }
  const RateCard card = rates->At(utc_ns);
  if (card == engine->rate_card()) return;
  engine->SetRateCard(card);
  spdlog::info("{}", rates->Describe(utc_ns));
}

// After a SIGHUP.
template <typename File>
void ReadAgain(const char* what, File* file) {
  const absl::Status read = file->Reload();
  if (read.ok()) {
    spdlog::info("SIGHUP: the {} were read again", what);
  } else {
    spdlog::error("SIGHUP: {} stay as they are: {}", what, std::string(read.message()));
  }
}

// Serves until a signal or the engine's failure. The exit code.
int ServeUntilStopped(const ServeOptions& options, const Clock& clock, Signals* signals,
                      RateSource* rates, Tenants* tenants, ApiKeys* keys, Doors* doors,
                      Engine* engine, Bookkeeper* books) {
  int hangups = 0;
  const auto next_look_ns = [&] {
    const int64_t utc_ns = clock.UtcNs();
    return std::min(kLookNs, rates->NextChange(utc_ns) - utc_ns);
  };
  while (signals->WaitForMoreThan(0, next_look_ns()) == 0) {
    const int hangups_before = std::exchange(hangups, signals->hangups());
    const bool read_again = hangups > hangups_before;
    if (read_again && tenants->has_file()) ReadAgain("tenants", tenants);
    if (read_again && keys != nullptr) ReadAgain("keys", keys);
    const bool rates_too = rates->has_file() || (!tenants->has_file() && keys == nullptr);
    FollowRates(clock.UtcNs(), read_again && rates_too, rates, engine);
    if (!engine->Snapshot().failed) continue;
    spdlog::error("the engine has failed; ending, so that a new process can start");
    doors->SetNotServing();
    books->FinishTelling();
    doors->Stop();
    return kEngineFailed;
  }
  Drain(options, clock, signals, doors, engine, books);
  return 0;
}

int Fail(const absl::Status& status) {
  spdlog::error("{}", std::string(status.message()));
  return kCouldNotStart;
}

void TellAddresses(const ServeOptions& options, const std::string& price, const Doors& doors,
                   const AdminServer& admin) {
  const char* tls = !doors.grpc->uses_tls()         ? ", plain text"
                    : options.tls_client_ca.empty() ? ", TLS"
                                                    : ", mutual TLS";
  spdlog::info("gRPC on {}:{}{}", options.host, doors.grpc->port(), tls);
  if (options.http_port >= 0) {
    spdlog::info(
        "OpenAI-compatible HTTP on {}:{}{}: /v1/chat/completions /v1/completions "
        "/v1/models",
        options.http_host, doors.http->port(), tls);
  }
  if (options.keys.empty()) {
    const std::string open = OpenAddresses(options);
    if (open.empty()) {
      spdlog::info("no --keys: nobody needs one, and this machine alone may call");
    } else {
      spdlog::warn("no --keys: whoever reaches {} may use the service", open);
    }
  }
  spdlog::info("admin HTTP on {}:{}: /healthz /readyz /metrics /status", options.admin_host,
               admin.port());
  if (HasPage(options)) {
    spdlog::info("a page to chat on: http://{}:{}/", options.admin_host, admin.port());
  }
  spdlog::info("{}", price);
  if (!options.files_dir.empty()) {
    spdlog::info("files and batches: {}, at most {} bytes, {} days (0: any time)",
                 options.files_dir, options.files_bytes_max, options.files_keep_days);
  }
  spdlog::info("usage store: {}", options.usage_store.empty()
                                      ? "none; --usage-store FILE keeps the books"
                                      : options.usage_store);
}

void PrintSettings(const CLI::App& flags) {
  for (const CLI::Option* option : flags.get_options()) {
    if (option->get_lnames().empty() || option->get_lnames()[0] == "help") continue;
    const std::string value =
        option->count() > 0 ? option->results().back() : option->get_default_str();
    std::printf("%s = %s\n", option->get_lnames()[0].c_str(), value.c_str());
  }
  std::fflush(stdout);
}

// The tenants of --tenants, their budgets in *budgets, which need a store and a price.
absl::StatusOr<std::unique_ptr<Tenants>> OpenTenants(const ServeOptions& options, bool has_price,
                                                     AdmissionControl* admission,
                                                     Budgets* budgets) {
  auto tenants =
      Tenants::Open(options.tenants, admission, options.usage_store.empty() ? nullptr : budgets);
  if (!tenants.ok() || has_price || !budgets->any()) return tenants;
  return absl::FailedPreconditionError(
      absl::StrCat("tenants ", options.tenants,
                   ": there is a budget in it, and what this machine "
                   "costs is not known; say so with --price-per-hour, --machine or --rate-cards"));
}

int Check(const ServeOptions& options, const CLI::App& flags) {
  PrintSettings(flags);
  if (absl::Status status = CheckTlsFiles(options); !status.ok()) return Fail(status);
  if (absl::Status status = TryDoors(options); !status.ok()) return Fail(status);
  if (absl::Status status = TryStores(options); !status.ok()) return Fail(status);
  const auto prices = ReadPrices(options, SteadyClock().UtcNs());
  if (!prices.ok()) return Fail(prices.status());
  AdmissionControl admission(AdmissionOf(options));
  Budgets budgets;
  const bool has_price = prices->rates.At(SteadyClock().UtcNs()).known();
  const auto tenants = OpenTenants(options, has_price, &admission, &budgets);
  if (!tenants.ok()) return Fail(tenants.status());
  const SteadyClock clock;
  const auto keys = OpenKeys(options, &clock);
  if (!keys.ok()) return Fail(keys.status());
  ServeOptions without_cache = options;  // it would be written
  without_cache.model.weights_cache = "off";
  const auto loaded = LoadAndTell(without_cache);
  if (!loaded.ok()) return Fail(loaded.status());
  spdlog::info("everything was checked; nothing is served because of --check");
  return 0;
}

// The calling thread, and those made from it later on: the ones that carry callers' bytes. Whoever
// cuts into a step holds up all of its threads, and would do so for each byte that comes; a few
// milliseconds later as much is done at once.
void GiveWayToEngine() {
  errno = 0;
  const int own = getpriority(PRIO_PROCESS, 0);  // on Linux of the thread, as below
  if (errno == 0) setpriority(PRIO_PROCESS, 0, own + kGiveWayNice);
}

int Serve(const ServeOptions& options) {
  const SteadyClock clock;
  const int64_t started_ns = clock.NowNs();
  Signals signals;
  AdminState state;
  if (absl::Status status = CheckTlsFiles(options); !status.ok()) return Fail(status);
  auto prices = ReadPrices(options, clock.UtcNs());
  if (!prices.ok()) return Fail(prices.status());
  RateSource& rates = prices->rates;
  auto admin = AdminServer::Start(options.admin_host, options.admin_port,
                                  AdminPages(&state, HasPage(options)), AdminPosts(&state));
  if (!admin.ok()) return Fail(admin.status());
  AdmissionControl admission(AdmissionOf(options));
  Budgets budgets;
  const bool has_price = rates.At(clock.UtcNs()).known();
  const auto tenants = OpenTenants(options, has_price, &admission, &budgets);
  if (!tenants.ok()) return Fail(tenants.status());
  const auto keys = OpenKeys(options, &clock);
  if (!keys.ok()) return Fail(keys.status());
  TenantRates tenant_rates;
  const auto files = OpenFiles(options);
  if (!files.ok()) return Fail(files.status());
  auto store = OpenStore(options, rates.At(clock.UtcNs()), started_ns, &clock);
  if (!store.ok()) return Fail(store.status());
  auto loaded = LoadAndTell(options);
  if (!loaded.ok()) return Fail(loaded.status());

  (*loaded)->served.aliases = options.model.model_aliases;
  (*loaded)->served.loaded_unix_seconds = clock.UtcNs() / 1'000'000'000;
  EngineOptions engine_options = (*loaded)->engine;
  SetEngineOptions(options, started_ns, rates.At(clock.UtcNs()), &engine_options);
  StepRecords records(kStepRecords, engine_options.sequences_max);
  engine_options.records = &records;
  std::atomic<bool> unrecorded = false;
  engine_options.unrecorded = &unrecorded;
  if (*store != nullptr) {
    absl::Status named =
        (*store)->NameModel((*loaded)->served.name, (*loaded)->served.arithmetic_id);
    if (!named.ok()) return Fail(named);
    const auto spend = (*store)->SpendOfMonth(clock.UtcNs());
    if (!spend.ok()) return Fail(spend.status());
    budgets.SetSpent(*spend);
  }
  engine_options.secret = DrawServerSecret();
  Engine engine(engine_options, (*loaded)->executor(), (*loaded)->served.tokenizer.get(), &clock);
  AnswerKeys answer_keys(&(*loaded)->served, options.usage_store);
  CallRegistry calls;
  ServiceCounters counters;
  LineWriter log_lines(STDOUT_FILENO);
  RequestLog log([&log_lines](std::string_view line) { log_lines.Write(line); });
  Metrics metrics(MetricsOptionsOf(options, (*loaded)->served), &clock);
  auto trace = TraceWriter::Open(options.write_trace, &metrics);
  if (!trace.ok()) return Fail(trace.status());
  if (absl::Status status = engine.WarmUp(); !status.ok()) return Fail(status);
  std::optional<Bookkeeper> books(std::in_place,
                                  BookkeeperOptionsOf(options, prices->reference, &unrecorded,
                                                      *store != nullptr ? &budgets : nullptr),
                                  store->get(), &records, engine.notifier(), trace->get(), &clock);
  ServiceParts parts{.model = &(*loaded)->served,
                     .engine = &engine,
                     .admission = &admission,
                     .clock = &clock,
                     .calls = &calls,
                     .log = &log,
                     .counters = &counters,
                     .limits = CallLimitsOf(options, (*loaded)->served),
                     .metrics = &metrics,
                     .books = &*books,
                     .tenants = tenants->get(),
                     .rates = &tenant_rates,
                     .answer_keys = &answer_keys,
                     .keys = keys->get(),
                     .usage_store = options.usage_store};
  if (*store != nullptr) {
    parts.store = [&books] { return books->Snapshot(); };
    parts.budgets = &budgets;
  }
  engine.Start();
  GiveWayToEngine();
  std::unique_ptr<BatchJobs> jobs;
  if (*files != nullptr) {
    auto started = BatchJobs::Start({}, parts, files->get());
    if (!started.ok()) {
      engine.Stop();
      return Fail(started.status());
    }
    jobs = *std::move(started);
    parts.files = files->get();
    parts.jobs = jobs.get();
  }
  auto doors = OpenDoors(options, parts);
  if (!doors.ok()) {
    jobs.reset();
    engine.Stop();  // which closes the records
    return Fail(doors.status());
  }
  TellAddresses(options, rates.Describe(clock.UtcNs()), *doors, **admin);
  signals.SetGraceful(true);
  state.parts = &parts;
  state.server = doors->grpc.get();
  if (HasPage(options)) state.http = doors->http.get();
  spdlog::info("ready after {:.1f} seconds; Ctrl-C drains and ends",
               (clock.NowNs() - started_ns) / 1e9);
  const int code = ServeUntilStopped(options, clock, &signals, &rates, tenants->get(), keys->get(),
                                     &*doors, &engine, &*books);
  admin->reset();  // its pages look at the parts below
  jobs.reset();
  engine.Stop();
  books.reset();  // the last period is in it
  return code;
}

}  // namespace

CLI::App* AddServeCommand(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand("serve", "Serve a Phi-3 model over gRPC");
  auto options = std::make_shared<ServeOptions>();
  AddServeFlags(*command, options.get());
  command->footer(
      "Each flag may also come from TUPPENCE_<NAME>, as TUPPENCE_DRAIN_SECONDS=60, or from a line\n"
      "drain-seconds = 60 of the --config file. A flag wins over the variable, the variable over "
      "the file.");
  command->callback([command, options, exit_code] {
    SetUpLogging(options->log_level);
    *exit_code = options->check ? Check(*options, *command) : Serve(*options);
  });
  return command;
}

}  // namespace tuppence
