// Host time of an engine step: everything but the model. NullExecutor answers at once, so that what
// is left is planning, building the batch, charging and delivering, with readers that take each
// step. Prints one line for each number of running sequences: the host's time of a step, and how
// much of it a device would wait for, the next step's plan being made while it works; then the
// ledger's own part: dividing a step's time, following it with the fit, closing periods when due.
//   engine_bench [steps]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "scheduler/engine.h"
#include "scheduler/null_executor.h"

namespace tuppence {
namespace {

constexpr int32_t kVocab = 32064;

EngineOptions Options(int32_t sequences) {
  EngineOptions options;
  options.context_tokens = 4096;
  options.blocks = sequences * 256;
  options.sequences_max = sequences;
  options.logit_rows_max = sequences;
  options.inbox_max = sequences;
  options.prefix_cache = false;  // the prompts are all alike
  return options;
}

Request MakeRequest(int32_t number, int32_t prompt_tokens, int32_t max_tokens) {
  Request request;
  request.id = absl::StrCat("request-", number);
  request.tenant = absl::StrCat("tenant-", number % 8);
  request.prompt.assign(prompt_tokens, 17);
  request.sampling.seed = number;
  request.sampling.max_tokens = max_tokens;
  request.stop_ids = {kVocab, kVocab + 1, kVocab + 2};  // never drawn
  request.text_output = false;
  request.stream = std::make_shared<TokenStream>(1, TokenStream::Limits());
  return request;
}

// Notes how long it is between Launch and Wait that the engine does something else.
class WatchedExecutor final : public StepExecutor {
 public:
  explicit WatchedExecutor(const Clock* clock) : clock_(clock), executor_(kVocab) {}
  void Launch(const BlockWork& blocks, const Batch& batch,
              std::span<const SamplingRow> sampling) override {
    executor_.Launch(blocks, batch, sampling);
    launched_ns_ = clock_->NowNs();
  }
  absl::Status Wait(std::span<SampledToken> tokens) override {
    beside_ns_ = clock_->NowNs() - launched_ns_;
    return executor_.Wait(tokens);
  }
  int64_t beside_ns() const { return beside_ns_; }

 private:
  const Clock* const clock_;
  NullExecutor executor_;
  int64_t launched_ns_ = 0;
  int64_t beside_ns_ = 0;
};

struct Figures {
  double median_us = 0;
  double p99_us = 0;
  double max_us = 0;
};

Figures FiguresOf(std::vector<int64_t> step_ns) {
  std::sort(step_ns.begin(), step_ns.end());
  const auto at = [&](double part) {
    return static_cast<double>(step_ns[static_cast<size_t>(part * (step_ns.size() - 1))]) / 1000;
  };
  return {.median_us = at(0.5), .p99_us = at(0.99), .max_us = at(1)};
}

// Decode steps of `sequences` running requests whose prompts have prompt_tokens tokens. The median
// of what of them a device would wait for goes to *waited_us.
Figures MeasureDecode(int32_t sequences, int32_t prompt_tokens, int32_t steps, double* waited_us) {
  const SteadyClock clock;
  WatchedExecutor executor(&clock);
  Engine engine(Options(sequences), &executor, /*tokenizer=*/nullptr, &clock);
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int32_t i = 0; i < sequences; ++i) {
    Request request = MakeRequest(i, prompt_tokens, 4096 - prompt_tokens);
    streams.push_back(request.stream);
    const absl::Status status = engine.Submit(std::move(request));
    if (!status.ok()) {
      std::fprintf(stderr, "%s\n", status.ToString().c_str());
      std::exit(1);
    }
  }
  StreamDelta delta;
  std::vector<int64_t> step_ns;
  std::vector<int64_t> waited_ns;
  step_ns.reserve(steps);
  waited_ns.reserve(steps);
  while (static_cast<int32_t>(step_ns.size()) < steps) {
    const int64_t start_ns = clock.NowNs();
    engine.Step();
    const int64_t end_ns = clock.NowNs();
    for (const auto& stream : streams) stream->Take(&delta);
    engine.notifier()->NotifyAll();
    const EngineSnapshot snapshot = engine.Snapshot();
    const bool all_decode = snapshot.prefill_tokens == int64_t{sequences} * prompt_tokens;
    if (!all_decode) continue;
    step_ns.push_back(end_ns - start_ns);
    waited_ns.push_back(end_ns - start_ns - executor.beside_ns());
  }
  *waited_us = FiguresOf(std::move(waited_ns)).median_us;
  return FiguresOf(std::move(step_ns));
}

// The ledger alone, as Engine::Charge and CloseStep call it. `chunk_tokens` > 0: one player
// prefills so many, enough that arithmetic rules and psi is not 0.
Figures MeasureLedger(int32_t requests, int64_t chunk_tokens, int32_t steps) {
  // Reading rules at every number of decodes, as on a GPU; one chunk is enough for arithmetic to.
  const StepCostCoefficients coefficients = {.launch_ns = 50'000,
                                             .weights_ns = 10'000'000,
                                             .token_ns = 20'000,
                                             .attention_ns = 1,
                                             .kv_read_ns = 200};
  const SteadyClock clock;
  StepCostFit fit(coefficients);
  CostLedger ledger({.start_ns = clock.NowNs(),
                     .utc_start_ns = clock.UtcNs(),
                     .rate_card = {"bench", 500'000},
                     .coefficients = coefficients,
                     .players_max = requests + 1});
  // As far apart as the engine's requests are.
  struct alignas(64) Request {
    Charges charges;
    char rest[1024];
  };
  std::vector<std::unique_ptr<Request>> open;
  std::vector<StepPlayer> players;
  for (int32_t i = 0; i < requests; ++i) {
    open.push_back(std::make_unique<Request>());
    ledger.Open(absl::StrCat("tenant-", i % 8), &open.back()->charges);
    StepPlayer player = {&open.back()->charges, i, {}, {}};
    if (i == 0 && chunk_tokens > 0) {
      player.prefill = WorkOf(0, chunk_tokens, Phase::kPrefill);
    } else {
      player.decode = WorkOf(300 + i, 301 + i, Phase::kDecode);
    }
    players.push_back(player);
  }
  std::vector<int64_t> step_ns;
  for (int32_t step = 0; step < steps; ++step) {
    const int64_t start_ns = clock.NowNs();
    const StepCharge charge = ledger.ChargeStep(players, start_ns);
    fit.Add(charge.work, static_cast<double>(charge.step_ns));
    ledger.ClosePeriodIfDue(clock.UtcNs());
    if (fit.Refine()) ledger.SetCoefficients(fit.coefficients());
    step_ns.push_back(clock.NowNs() - start_ns);
    ledger.TakePeriods(nullptr);
    // The model stays as it was, so that each kind of step stays of its kind.
    ledger.SetCoefficients(coefficients);
  }
  return FiguresOf(std::move(step_ns));
}

void Run(int32_t steps) {
  std::printf("host time per decode step, NullExecutor, %d steps each\n", steps);
  std::printf("%10s %14s %10s %10s %10s %16s\n", "sequences", "prompt_tokens", "median_us",
              "p99_us", "max_us", "device_waits_us");
  for (const int32_t sequences : {1, 16, 64, 256}) {
    for (const int32_t prompt_tokens : {300, 1024}) {
      double waited_us = 0;
      const Figures figures = MeasureDecode(sequences, prompt_tokens, steps, &waited_us);
      std::printf("%10d %14d %10.1f %10.1f %10.1f %16.1f\n", sequences, prompt_tokens,
                  figures.median_us, figures.p99_us, figures.max_us, waited_us);
    }
  }
  std::printf("the ledger's part of it\n%10s %14s %10s %10s %10s\n", "sequences", "chunk_tokens",
              "median_us", "p99_us", "max_us");
  for (const int32_t sequences : {1, 16, 64, 256}) {
    for (const int64_t chunk_tokens : {0, 512}) {
      const Figures figures = MeasureLedger(sequences, chunk_tokens, steps);
      std::printf("%10d %14d %10.2f %10.2f %10.2f\n", sequences, static_cast<int>(chunk_tokens),
                  figures.median_us, figures.p99_us, figures.max_us);
    }
  }
}

}  // namespace
}  // namespace tuppence

int main(int argc, char** argv) {
  const int32_t steps = argc > 1 ? std::atoi(argv[1]) : 1000;
  if (steps < 1 || steps > 1500) {
    std::fprintf(stderr, "usage: engine_bench [steps], 1 to 1500; found '%s'\n", argv[1]);
    return 2;
  }
  tuppence::Run(steps);
  return 0;
}
