#include "service/batch_command.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <cstdio>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "service/batch_input.h"
#include "service/batch_output.h"
#include "service/batch_runner.h"
#include "service/batch_totals.h"
#include "service/client_asker.h"
#include "service/client_flags.h"
#include "service/local_service.h"
#include "service/rate_source.h"
#include "service/terminal.h"

namespace tuppence {
namespace {

constexpr int kConcurrencyMax = 1024;
constexpr int kCallsPerConnection = 64;
constexpr int kColumnsWithoutTerminal = 200;
constexpr absl::Duration kShowOnTerminalEvery = absl::Milliseconds(250);
constexpr absl::Duration kShowInLogEvery = absl::Seconds(30);

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  return 1;
}

int TerminalColumns() {
  struct winsize size = {};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) {
    return kColumnsWithoutTerminal;
  }
  return size.ws_col - 1;
}

// Shows how far the job is on standard error: one line that stays on a terminal, a line now and
// then elsewhere.
class ProgressShow {
 public:
  ProgressShow(const BatchTotals& totals, int64_t lines)
      : totals_(totals), before_(totals.sums()), lines_(lines), began_(absl::Now()) {
    thread_ = std::thread([this] { Run(); });
  }
  ~ProgressShow() {
    ending_.Notify();
    thread_.join();
  }

 private:
  void Run() {
    const bool terminal = IsTerminal(STDERR_FILENO);
    const absl::Duration every = terminal ? kShowOnTerminalEvery : kShowInLogEvery;
    while (!ending_.WaitForNotificationWithTimeout(every)) Show(terminal);
    if (!terminal) return;
    Show(terminal);
    std::fputc('\n', stderr);
  }
  void Show(bool terminal) const {
    const std::string line =
        FormatProgress({.sums = totals_.sums(),
                        .lines = lines_,
                        .lines_before = before_.lines(),
                        .tokens_before = before_.completion_tokens,
                        .seconds = absl::ToDoubleSeconds(absl::Now() - began_)},
                       TerminalColumns());
    std::fprintf(stderr, terminal ? "\r%s\033[K" : "%s\n", line.c_str());
    std::fflush(stderr);
  }

  const BatchTotals& totals_;
  const BatchSums before_;
  const int64_t lines_;
  const absl::Time began_;
  absl::Notification ending_;
  std::thread thread_;
};

// Whom the lines are asked, and how each place gets its client.
struct Service {
  std::unique_ptr<LocalService> local;  // null: a running one
  std::function<absl::StatusOr<std::unique_ptr<Client>>()> make_client;
};

absl::StatusOr<Service> Connect(const BatchOptions& options) {
  Service service;
  if (options.model.model.empty()) {
    auto made = std::make_shared<std::atomic<int>>(0);
    service.make_client = [client = options.client,
                           made]() -> absl::StatusOr<std::unique_ptr<Client>> {
      const int lane = made->fetch_add(1) / kCallsPerConnection;
      auto channel = MakeChannel(client, lane);
      if (!channel.ok()) return channel.status();
      return std::make_unique<Client>(*std::move(channel), client.timeout_seconds, client.key);
    };
    return service;
  }
  const absl::StatusOr<RateSource> rates =
      RateSource::Open(options.rates, absl::GetCurrentTimeNanos());
  if (!rates.ok()) return rates.status();
  absl::StatusOr<std::unique_ptr<LocalService>> local =
      LocalService::Load(options.model, rates->At(absl::GetCurrentTimeNanos()));
  if (!local.ok()) return local.status();
  service.local = *std::move(local);
  service.make_client = [local = service.local.get(), seconds = options.client.timeout_seconds]()
      -> absl::StatusOr<std::unique_ptr<Client>> { return local->NewClient(seconds); };
  return service;
}

// Whether there is somebody to ask: a wrong address is heard of at once.
absl::StatusOr<v1::GetModelResponse> AskModel(const Service& service) {
  const absl::StatusOr<std::unique_ptr<Client>> client = service.make_client();
  if (!client.ok()) return client.status();
  v1::GetModelResponse model;
  if (absl::Status there = (*client)->GetModel(&model); !there.ok()) return there;
  return model;
}

absl::StatusOr<BatchRunOptions> RunOptionsOf(const BatchOptions& options) {
  BatchRunOptions run;
  run.concurrency = options.concurrency;
  run.patience_seconds = options.patience_seconds;
  if (options.reference_price.empty()) return run;
  absl::StatusOr<ReferencePrice> reference = FindReferencePrice(options.reference_price);
  if (!reference.ok()) return reference.status();
  run.reference = *std::move(reference);
  return run;
}

// The first Ctrl-C lets the lines in progress finish, the second ends at once: the output is whole
// at any moment.
class StopOnInterrupt {
 public:
  StopOnInterrupt() : watch_([this] { return Interrupt(); }) {}
  // Null: nobody; then nothing of the one before is touched any more.
  void Watch(BatchRunner* runner) {
    absl::MutexLock lock(&mutex_);
    runner_ = runner;
  }

 private:
  bool Interrupt() {
    absl::MutexLock lock(&mutex_);
    if (runner_ == nullptr) return false;
    std::fputs("\nfinishing what is in progress; Ctrl-C again ends at once\n", stderr);
    std::exchange(runner_, nullptr)->Stop();
    return true;
  }

  absl::Mutex mutex_;
  BatchRunner* runner_ ABSL_GUARDED_BY(mutex_) = nullptr;
  InterruptWatch watch_;
};

absl::Status AskTheRest(const BatchOptions& options, int64_t lines,
                        absl::flat_hash_set<std::string> done, StopOnInterrupt* interrupt,
                        BatchOutput* output, BatchTotals* totals) {
  const absl::StatusOr<Service> service = Connect(options);
  if (!service.ok()) return service.status();
  const absl::StatusOr<v1::GetModelResponse> model = AskModel(*service);
  if (!model.ok()) return model.status();
  absl::StatusOr<BatchRunOptions> run = RunOptionsOf(options);
  if (!run.ok()) return run.status();
  run->job_id = output->job_id();
  auto input = BatchInput::Open(options.input);
  if (!input.ok()) return input.status();
  const auto make_asker = [&]() -> absl::StatusOr<std::unique_ptr<BatchAsker>> {
    absl::StatusOr<std::unique_ptr<Client>> client = service->make_client();
    if (!client.ok()) return client.status();
    return std::make_unique<ClientAsker>(*std::move(client), model->arithmetic_id());
  };
  const auto append = [output](const std::string& line, bool) { return output->Append(line); };
  BatchRunner runner(*run, make_asker, append, totals);
  const ProgressShow show(*totals, lines);
  interrupt->Watch(&runner);
  absl::Status status = runner.Run(&*input, std::move(done));
  interrupt->Watch(nullptr);
  return status;
}

void AddFlags(CLI::App* command, BatchOptions* options) {
  command->add_option("input", options->input, "File of requests, one JSON object a line")
      ->required();
  command->add_option("output", options->output, "File of answers; one of this job is gone on with")
      ->required();
  AddModelFlags(*command, &options->model);
  // From the command line alone: a TUPPENCE_MODEL that is meant for `serve` must not turn a batch
  // for a running service into loading a checkpoint. TUPPENCE_KEY is read as ever.
  for (CLI::Option* option : command->get_options()) option->envname("");
  AddClientFlags(*command, &options->client);
  command->get_option("--model")->excludes("--address");
  command->add_option("--concurrency", options->concurrency, "Lines in progress at once")
      ->check(CLI::Range(1, kConcurrencyMax))
      ->capture_default_str();
  command
      ->add_option("--patience", options->patience_seconds,
                   "Seconds without any answer after which the job pauses")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--price-per-hour", options->rates.price_per_hour,
                      "What this machine costs, USD an hour, for a model loaded here");
  command->add_option("--machine", options->rates.machine,
                      "The same by the table of public list prices, as aws-g4dn.xlarge");
  command->add_option("--reference-price", options->reference_price,
                      "Model API to compare with, where the service has none: a name or a file");
}

}  // namespace

int RunBatch(const BatchOptions& options) {
  StopOnInterrupt interrupt;  // before any other thread
  const absl::StatusOr<BatchCount> count = CheckBatchInput(options.input);
  if (!count.ok()) return Fail(count.status());
  BatchTotals totals;
  absl::flat_hash_set<std::string> done;
  auto output = BatchOutput::Open(options.output, options.input, [&](const nlohmann::json& line) {
    done.insert(BatchRunner::KeyOfAnswer(line));
    totals.Add(line);
  });
  if (!output.ok()) return Fail(output.status());
  const absl::Status status =
      totals.sums().lines() < count->lines
          ? AskTheRest(options, count->lines, std::move(done), &interrupt, output->get(), &totals)
          : absl::OkStatus();
  const BatchSums sums = totals.sums();
  std::fputs(FormatTotals(sums, count->lines).c_str(), stdout);
  if (!status.ok()) return Fail(status);
  return sums.refused == 0 ? 0 : 2;
}

void AddBatchCommand(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<BatchOptions>();
  CLI::App* command =
      app.add_subcommand("batch", "Answer a file of OpenAI batch lines, cheaply and resumably");
  command->footer(
      "Each line is {\"custom_id\": ..., \"method\": \"POST\", \"url\": \"/v1/chat/completions\" "
      "or\n"
      "\"/v1/completions\", \"body\": {...}}, and may carry \"expected\" (exact match is written) "
      "or\n"
      "\"reference_answer\" (both are written side by side). Killed or stopped, the same command\n"
      "goes on where it was. Exit code 0: all answered; 2: done, some refused; 1: not done.\n\n"
      "  tuppence batch questions.jsonl answers.jsonl --address 127.0.0.1:8033\n"
      "  tuppence batch questions.jsonl answers.jsonl --model DIR --price-per-hour 0.526");
  AddFlags(command, options.get());
  command->callback([options, exit_code] { *exit_code = RunBatch(*options); });
}

}  // namespace tuppence
