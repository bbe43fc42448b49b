// Does a scrape delay a step? The real engine decodes answers on the real CPU backend without a
// pause, with all of the machine's cores, while /metrics is read over HTTP at random moments.
// Printed:
// - The time that the service's own thread takes of a core for a scrape: no step is later by more,
//   for the engine waits for no lock that a scrape holds.
// - For how long each step's threads were ready to run while the kernel ran something else on their
//   core (proc(5), schedstat; summed over the threads), and how much longer each step took, from
//   its launch to the next one's, than the median of the steps around it that no scrape touched.
//   Steps that none overlapped show what else the machine does; the page's reader is on it too.
//   scrape_bench [--model deploy/demo_model/checkpoint] [--seconds 60] [--sequences 32]
#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
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

// What the kernel says of this process's threads of some names, since each one's beginning, summed.
class ThreadTimes {
 public:
  explicit ThreadTimes(const std::vector<std::string>& names) {
    for (const auto& thread : std::filesystem::directory_iterator("/proc/self/task")) {
      std::string name;
      std::getline(std::ifstream(thread.path() / "comm"), name);
      if (std::find(names.begin(), names.end(), name) == names.end()) continue;
      files_.push_back(open((thread.path() / "schedstat").c_str(), O_RDONLY | O_CLOEXEC));
    }
  }
  ~ThreadTimes() {
    for (const int file : files_) close(file);
  }

  int64_t ran_ns() const { return Read().first; }
  // Ready to run, and not let to.
  int64_t kept_waiting_ns() const { return Read().second; }

 private:
  std::pair<int64_t, int64_t> Read() const {
    std::pair<int64_t, int64_t> sum = {0, 0};
    for (const int file : files_) {
      char text[96] = {};
      if (pread(file, text, sizeof(text) - 1, 0) <= 0) Die(absl::InternalError("no schedstat"));
      char* waited = nullptr;
      sum.first += std::strtoll(text, &waited, 10);
      sum.second += std::strtoll(waited, nullptr, 10);
    }
    return sum;
  }

  std::vector<int> files_;
};

// A step of nothing but `sequences` decodes, or (`plain` false) any other.
struct TimedStep {
  int64_t launch_ns = 0;
  int64_t kept_waiting_ns = 0;  // until its launch
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
    if (counts) Note(batch);
    executor_->Launch(blocks, batch, sampling);
  }
  absl::Status Wait(std::span<SampledToken> tokens) override { return executor_->Wait(tokens); }

  bool counts = false;
  std::vector<TimedStep> steps;

 private:
  void Note(const Batch& batch) {
    if (!threads_.has_value()) threads_.emplace(std::vector<std::string>{"engine", "compute"});
    const bool plain = batch.tokens() == sequences_ && batch.entries() == sequences_;
    steps.push_back({clock_->NowNs(), threads_->kept_waiting_ns(), plain});
  }

  StepExecutor* const executor_;
  const Clock* const clock_;
  const int32_t sequences_;
  std::optional<ThreadTimes> threads_;
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

// Of the steps that a scrape overlapped and of the others, in microseconds.
struct Delays {
  std::vector<double> scraped_us;
  std::vector<double> quiet_us;
};

struct Measured {
  Delays kept_waiting;
  Delays longer;  // than the quiet steps around
};

Measured Compare(const std::vector<TimedStep>& steps, const std::vector<Scrape>& scrapes) {
  struct Step {
    double us;
    double kept_waiting_us;
    bool scraped;
  };
  std::vector<Step> plain;
  auto scrape = scrapes.begin();
  for (size_t i = 0; i + 1 < steps.size(); ++i) {
    if (!steps[i].plain) continue;
    const int64_t begin_ns = steps[i].launch_ns;
    const int64_t end_ns = steps[i + 1].launch_ns;
    while (scrape != scrapes.end() && scrape->end_ns < begin_ns) ++scrape;
    const int64_t waited_ns = steps[i + 1].kept_waiting_ns - steps[i].kept_waiting_ns;
    plain.push_back({1e-3 * static_cast<double>(end_ns - begin_ns),
                     1e-3 * static_cast<double>(waited_ns),
                     scrape != scrapes.end() && scrape->begin_ns < end_ns});
  }
  Measured measured;
  for (size_t i = 0; i < plain.size(); ++i) {
    const auto add = [&](Delays* to, double us) {
      (plain[i].scraped ? to->scraped_us : to->quiet_us).push_back(us);
    };
    add(&measured.kept_waiting, plain[i].kept_waiting_us);
    std::vector<double> around;
    const size_t first = i < kNeighbours ? 0 : i - kNeighbours;
    for (size_t k = first; k < std::min(plain.size(), i + kNeighbours + 1); ++k) {
      if (k != i && !plain[k].scraped) around.push_back(plain[k].us);
    }
    if (around.size() < kNeighbours) continue;
    add(&measured.longer, plain[i].us - Median(std::move(around)));
  }
  return measured;
}

void PrintRow(const char* which, std::vector<double> delays_us) {
  if (delays_us.empty()) Die(absl::InternalError(absl::StrCat("no steps were ", which)));
  std::sort(delays_us.begin(), delays_us.end());
  const auto at = [&](double part) {
    return delays_us[static_cast<size_t>(part * static_cast<double>(delays_us.size() - 1))];
  };
  const auto late = delays_us.end() - std::upper_bound(delays_us.begin(), delays_us.end(), 1000.0);
  std::printf("%-22s %8zu %9.1f %9.1f %9.1f %9.1f %9.3f\n", which, delays_us.size(), at(0.5),
              at(0.99), at(0.999), at(1), 100.0 * static_cast<double>(late) / delays_us.size());
}

void Print(const char* title, const Delays& delays) {
  std::printf("%s, us\n%-22s %8s %9s %9s %9s %9s %9s\n", title, "", "steps", "median", "p99",
              "p99.9", "max", "% > 1 ms");
  PrintRow("overlapped by a scrape", delays.scraped_us);
  PrintRow("by none", delays.quiet_us);
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
  executor.counts = true;
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
  const auto page = [&] { return AdminPage{.body = FormatMetrics(parts)}; };
  auto admin = AdminServer::Start("127.0.0.1", 0, {{"/metrics", page}});
  if (!admin.ok()) Die(admin.status());
  engine.Start();

  Callers callers(&engine, &clock, options, served.context_tokens / 2);
  std::mt19937_64 random(options.seed);
  std::vector<Scrape> scrapes;
  std::vector<double> admin_us;         // of a core, for each scrape: page, connection and all
  ScrapeOnce((*admin)->port(), clock);  // after it the thread has its name
  const ThreadTimes admin_thread({"admin"});
  int64_t admin_ns = admin_thread.ran_ns();
  const int64_t until_ns = clock.NowNs() + static_cast<int64_t>(options.seconds * 1e9);
  while (clock.NowNs() < until_ns) {
    callers.AskWhereNobodyDoes();
    scrapes.push_back(ScrapeOnce((*admin)->port(), clock));
    std::this_thread::sleep_for(std::chrono::milliseconds(30 + random() % 60));
    const int64_t before_ns = std::exchange(admin_ns, admin_thread.ran_ns());
    admin_us.push_back(1e-3 * static_cast<double>(admin_ns - before_ns));
  }
  admin->reset();
  engine.Stop();
  books.reset();

  std::vector<double> scrape_us;
  for (const Scrape& scrape : scrapes) {
    scrape_us.push_back(1e-3 * static_cast<double>(scrape.end_ns - scrape.begin_ns));
  }
  std::printf("%zu scrapes of %zu bytes among %zu steps of %d sequences\n", scrapes.size(),
              scrapes.back().bytes, executor.steps.size(), options.sequences);
  std::printf("%-40s median %6.0f, longest %6.0f\n", "until the page was read, us",
              Median(scrape_us), *std::max_element(scrape_us.begin(), scrape_us.end()));
  std::printf("%-40s median %6.0f, longest %6.0f\n", "the service's thread took of a core, us",
              Median(admin_us), *std::max_element(admin_us.begin(), admin_us.end()));
  const Measured measured = Compare(executor.steps, scrapes);
  Print("kept waiting for a core", measured.kept_waiting);
  Print("longer than the quiet steps around it", measured.longer);
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
