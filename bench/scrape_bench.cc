// Does a scrape delay a step? The real engine decodes answers on the real CPU backend without a
// pause, with all of the machine's cores, while /metrics is read over HTTP at random moments. Each
// step is timed from its launch to the next one's, and set against the median of the steps around
// it that no scrape touched. Printed: how much longer the steps took that a scrape overlapped, and
// the others, which shows what the machine does by itself.
//   scrape_bench [--model deploy/demo_model/checkpoint] [--seconds 60] [--sequences 32]
#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "scheduler/admission.h"
#include "scheduler/clock.h"
#include "scheduler/engine.h"
#include "scheduler/step_records.h"
#include "service/admin_server.h"
#include "service/bookkeeper.h"
#include "service/call_registry.h"
#include "service/metrics.h"
#include "service/model_loader.h"
#include "service/service_counters.h"
#include "service/service_parts.h"

namespace tuppence {
namespace {

namespace asio = boost::asio;

constexpr int32_t kPromptTokens = 64;
constexpr int kNeighbours = 16;  // on each side

struct Options {
  std::string model = "deploy/demo_model/checkpoint";
  double seconds = 60;
  int32_t sequences = 32;
  uint64_t seed = 1;
};

void Die(const absl::Status& status) {
  std::fprintf(stderr, "error: %s\n", status.ToString().c_str());
  std::exit(1);
}

// A step of nothing but `sequences` decodes, or (`plain` false) any other.
struct TimedStep {
  int64_t launch_ns = 0;
  bool plain = false;
};

// Passes everything on and notes when each step was launched. Thread: the engine's.
class TimedExecutor final : public StepExecutor {
 public:
  TimedExecutor(StepExecutor* executor, const Clock* clock, int32_t sequences)
      : executor_(executor), clock_(clock), sequences_(sequences) {
    steps.reserve(1'000'000);
  }
  void Launch(const BlockWork& blocks, const Batch& batch,
              std::span<const SamplingRow> sampling) override {
    const bool plain = batch.tokens() == sequences_ && batch.entries() == sequences_;
    steps.push_back({clock_->NowNs(), plain});
    executor_->Launch(blocks, batch, sampling);
  }
  absl::Status Wait(std::span<SampledToken> tokens) override { return executor_->Wait(tokens); }

  std::vector<TimedStep> steps;

 private:
  StepExecutor* const executor_;
  const Clock* const clock_;
  const int32_t sequences_;
};

// Keeps so many answers going that every step is full. Streams hold a whole answer: no reader.
class Callers {
 public:
  Callers(Engine* engine, const Clock* clock, const Options& options, int32_t answer_tokens)
      : engine_(engine),
        clock_(clock),
        answer_tokens_(answer_tokens),
        streams_(options.sequences) {}

  void AskWhereNobodyDoes() {
    StreamDelta delta;
    for (std::shared_ptr<TokenStream>& stream : streams_) {
      delta.Clear();
      const bool ended = stream != nullptr && stream->Take(&delta) && delta.end.has_value();
      if (stream == nullptr || ended) stream = Ask();
    }
  }

 private:
  std::shared_ptr<TokenStream> Ask() {
    Request request;
    request.id = absl::StrCat("request-", ++asked_);
    request.tenant = absl::StrCat("tenant-", asked_ % 8);
    for (int32_t i = 0; i < kPromptTokens; ++i) request.prompt.push_back(5 + (asked_ + i) % 1000);
    request.sampling.max_tokens = answer_tokens_;
    request.sampling.seed = asked_;
    request.text_output = false;
    request.received_ns = clock_->NowNs();
    request.stream = std::make_shared<TokenStream>(
        1, TokenStream::Limits{.tokens_max = answer_tokens_ + 1, .text_bytes_max = 1 << 20});
    std::shared_ptr<TokenStream> stream = request.stream;
    if (absl::Status status = engine_->Submit(std::move(request)); !status.ok()) Die(status);
    return stream;
  }

  Engine* const engine_;
  const Clock* const clock_;
  const int32_t answer_tokens_;
  std::vector<std::shared_ptr<TokenStream>> streams_;
  int32_t asked_ = 0;
};

// Of the calling thread.
int64_t CpuNs() {
  timespec used = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return int64_t{used.tv_sec} * 1'000'000'000 + used.tv_nsec;
}

struct Scrape {
  int64_t begin_ns = 0;
  int64_t end_ns = 0;
  size_t bytes = 0;
};

// As cheap for the client as it gets: that runs on another machine elsewhere.
Scrape ScrapeOnce(uint16_t port, const Clock& clock) {
  static std::string page(1 << 20, 0);
  Scrape scrape{.begin_ns = clock.NowNs()};
  asio::io_context io;
  asio::ip::tcp::socket connection(io);
  connection.connect({asio::ip::address_v4::loopback(), port});
  asio::write(connection,
              asio::buffer(std::string_view(
                  "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")));
  boost::system::error_code end;
  scrape.bytes = asio::read(connection, asio::buffer(page), end);
  scrape.end_ns = clock.NowNs();
  if (page.find("tuppence_steps_total") > scrape.bytes) {
    Die(absl::InternalError(page.substr(0, scrape.bytes)));
  }
  return scrape;
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// Microseconds by which steps were longer than the quiet ones around them.
struct Delays {
  std::vector<double> scraped_us;
  std::vector<double> quiet_us;
};

Delays DelaysOf(const std::vector<TimedStep>& steps, const std::vector<Scrape>& scrapes) {
  struct Step {
    double us;
    bool scraped;
  };
  std::vector<Step> plain;
  auto scrape = scrapes.begin();
  for (size_t i = 0; i + 1 < steps.size(); ++i) {
    if (!steps[i].plain) continue;
    const int64_t begin_ns = steps[i].launch_ns;
    const int64_t end_ns = steps[i + 1].launch_ns;
    while (scrape != scrapes.end() && scrape->end_ns < begin_ns) ++scrape;
    plain.push_back({1e-3 * static_cast<double>(end_ns - begin_ns),
                     scrape != scrapes.end() && scrape->begin_ns < end_ns});
  }
  Delays delays;
  for (size_t i = 0; i < plain.size(); ++i) {
    std::vector<double> around;
    const size_t first = i < kNeighbours ? 0 : i - kNeighbours;
    for (size_t k = first; k < std::min(plain.size(), i + kNeighbours + 1); ++k) {
      if (k != i && !plain[k].scraped) around.push_back(plain[k].us);
    }
    if (around.size() < kNeighbours) continue;
    (plain[i].scraped ? delays.scraped_us : delays.quiet_us)
        .push_back(plain[i].us - Median(std::move(around)));
  }
  return delays;
}

void Print(const char* which, std::vector<double> delays_us) {
  if (delays_us.empty()) Die(absl::InternalError(absl::StrCat("no steps were ", which)));
  std::sort(delays_us.begin(), delays_us.end());
  const auto at = [&](double part) {
    return delays_us[static_cast<size_t>(part * static_cast<double>(delays_us.size() - 1))];
  };
  const auto late = delays_us.end() - std::upper_bound(delays_us.begin(), delays_us.end(), 1000.0);
  std::printf("%-22s %8zu %9.1f %9.1f %9.1f %9.1f %9.3f\n", which, delays_us.size(), at(0.5),
              at(0.99), at(0.999), at(1), 100.0 * static_cast<double>(late) / delays_us.size());
}

void Run(const Options& options) {
  const SteadyClock clock;
  LoadOptions load;
  load.model.model = options.model;
  auto loaded = LoadModel(load);
  if (!loaded.ok()) Die(loaded.status());
  const ServedModel& served = (*loaded)->served;
  TimedExecutor executor((*loaded)->executor(), &clock, options.sequences);
  EngineOptions engine_options = (*loaded)->engine;
  StepRecords records(1024, engine_options.sequences_max);
  engine_options.records = &records;
  engine_options.rate_card = {"bench", 500'000};
  Engine engine(engine_options, &executor, served.tokenizer.get(), &clock);
  if (absl::Status status = engine.WarmUp(); !status.ok()) Die(status);
  executor.steps.clear();
  Metrics metrics({.model_name = served.name, .context_tokens = served.context_tokens}, &clock);
  std::optional<Bookkeeper> books(std::in_place, BookkeeperOptions(), nullptr, &records,
                                  engine.notifier(), &metrics, &clock);
  AdmissionControl admission{AdmissionLimits()};
  CallRegistry calls;
  ServiceCounters counters;
  ServiceParts parts;
  parts.model = &served;
  parts.engine = &engine;
  parts.admission = &admission;
  parts.clock = &clock;
  parts.calls = &calls;
  parts.counters = &counters;
  parts.metrics = &metrics;
  std::vector<double> cpu_us;  // of the admin thread, for each page
  const auto page = [&] {
    const int64_t begin_ns = CpuNs();
    AdminPage made{.body = FormatMetrics(parts)};
    cpu_us.push_back(1e-3 * static_cast<double>(CpuNs() - begin_ns));
    return made;
  };
  auto admin = AdminServer::Start("127.0.0.1", 0, {{"/metrics", page}});
  if (!admin.ok()) Die(admin.status());
  engine.Start();

  Callers callers(&engine, &clock, options, served.context_tokens / 2);
  std::mt19937_64 random(options.seed);
  std::vector<Scrape> scrapes;
  const int64_t until_ns = clock.NowNs() + static_cast<int64_t>(options.seconds * 1e9);
  while (clock.NowNs() < until_ns) {
    callers.AskWhereNobodyDoes();
    std::this_thread::sleep_for(std::chrono::milliseconds(30 + random() % 60));
    scrapes.push_back(ScrapeOnce((*admin)->port(), clock));
  }
  admin->reset();
  engine.Stop();
  books.reset();

  std::vector<double> scrape_us;
  for (const Scrape& scrape : scrapes) {
    scrape_us.push_back(1e-3 * static_cast<double>(scrape.end_ns - scrape.begin_ns));
  }
  std::printf(
      "%zu scrapes of %zu bytes, median %.0f us, longest %.0f us, of it "
      "%.0f us of a core for the page, among "
      "%zu steps of %d sequences\n",
      scrapes.size(), scrapes.back().bytes, Median(scrape_us),
      *std::max_element(scrape_us.begin(), scrape_us.end()), Median(cpu_us), executor.steps.size(),
      options.sequences);
  std::printf("longer than the quiet steps around it, us\n%-22s %8s %9s %9s %9s %9s %9s\n", "",
              "steps", "median", "p99", "p99.9", "max", "% > 1 ms");
  const Delays delays = DelaysOf(executor.steps, scrapes);
  Print("overlapped by a scrape", delays.scraped_us);
  Print("by none", delays.quiet_us);
}

}  // namespace
}  // namespace tuppence

int main(int argc, char** argv) {
  CLI::App app("Hold the steps that a scrape overlaps against those that none does");
  tuppence::Options options;
  app.add_option("--model", options.model, "Checkpoint folder or synthetic:NAME")
      ->capture_default_str();
  app.add_option("--seconds", options.seconds, "Of decoding and scraping")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--sequences", options.sequences, "Answers at a time")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  app.add_option("--seed", options.seed, "Of the moments of the scrapes")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  tuppence::Run(options);
  return 0;
}
