// Is a charge fair against the machine itself? For mixed steps of up to four requests, every subset
// of the requests is run on the real CPU backend and timed; the exact Shapley value of those times
// is what each request ought to pay of the whole step. Printed: how far the ledger's charges are
// from it, beside billing by tokens and by wall time, and the step-cost model's error.
//
//   fairness_bench                                            Phi-3-mini's shape, 4 of its 32
//   layers fairness_bench --model synthetic:phi-3-mini-4k --layers 0 --steps 20 --repeats 20
//   fairness_bench --model deploy/demo_model/checkpoint
#include <CLI/CLI.hpp>
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cpu/cpu_backend.h"
#include "model/checkpoint.h"
#include "model/kv_cache.h"
#include "model/phi3.h"
#include "model/synthetic.h"
#include "model/weights.h"
#include "scheduler/clock.h"
#include "scheduler/cost_ledger.h"
#include "scheduler/phi3_executor.h"
#include "scheduler/shaped_step.h"
#include "scheduler/step_cost_fit.h"
#include "scheduler/warm_up.h"

namespace tuppence {
namespace {

constexpr int32_t kBlockTokens = 16;
constexpr int32_t kRequestsMax = 4;
constexpr int32_t kTokensMax = 640;
constexpr int32_t kPositionMax = 1024;
constexpr int32_t kBlocks = 2 * kRequestsMax * kPositionMax / kBlockTokens;

struct Options {
  std::string model = "synthetic:phi-3-mini-4k";
  std::string weights = "int8";
  int32_t layers = 4;
  int32_t threads = 0;
  int32_t steps = 20;
  int32_t repeats = 20;
  int32_t chunk_max = 128;
  int32_t traffic = 100;
  double warm_up_seconds = 4;
  uint64_t seed = 1;
};

template <typename T>
T OrDie(absl::StatusOr<T> result) {
  if (result.ok()) return *std::move(result);
  std::fprintf(stderr, "error: %s\n", result.status().ToString().c_str());
  std::exit(1);
}

void OrDie(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "error: %s\n", status.ToString().c_str());
  std::exit(1);
}

// The model on the backend, and what its step-cost model says of it.
class Machine {
 public:
  explicit Machine(const Options& options) {
    ModelFiles files = OrDie(OpenModel(options.model));
    Config config = files.config;
    if (options.layers > 0 && IsSyntheticName(options.model)) {
      config.layers = std::min(config.layers, options.layers);
      files.source = MakeSyntheticWeights(config);
    }
    backend_ = OrDie(MakeCpuBackend({.threads = options.threads, .path = KernelPath::kAuto}));
    WeightOptions weights;
    weights.format = OrDie(ParseWeightFormat(options.weights));
    weights_ =
        std::make_unique<Weights>(OrDie(LoadWeights(config, *files.source, weights, *backend_)));
    const KvLayout layout{.type = DType::kBf16,
                          .layers = config.layers,
                          .kv_heads = config.kv_heads,
                          .head_dim = config.head_dim,
                          .block_tokens = kBlockTokens};
    cache_ = std::make_unique<KvCache>(OrDie(KvCache::Make(layout, kBlocks, *backend_)));
    phi3_ = std::make_unique<Phi3>(
        OrDie(Phi3::Make(config, *weights_, *backend_, kTokensMax, kTokensMax)));
    mapped_.assign((config.vocab + 63) / 64, ~uint64_t{0});
    if (config.vocab % 64 != 0) mapped_.back() >>= 64 - config.vocab % 64;
    executor_ = std::make_unique<Phi3Executor>(phi3_.get(), cache_.get(), backend_.get(), mapped_);
    fit_ = std::make_unique<StepCostFit>(
        StepCostPrior({.weight_bytes = weights_->bytes,
                       .parameters = config.parameters(),
                       .attention_cols = int64_t{config.layers} * config.attention_cols(),
                       .kv_bytes_per_token = layout.bytes_per_token()}));
    start_up_ =
        OrDie(MeasureWarmUp({.tokens_max = kTokensMax,
                             .sequences_max = 64,
                             .context_tokens = kPositionMax,
                             .block_tokens = kBlockTokens,
                             .blocks = kBlocks,
                             .budget_ns = static_cast<int64_t>(options.warm_up_seconds * 1e9)},
                            clock_, executor_.get()));
    fit_->Calibrate(start_up_);
  }

  // Nanoseconds of one run.
  double Time(ShapedStep& step) {
    const int64_t start_ns = clock_.NowNs();
    OrDie(step.Run(executor_.get()));
    return static_cast<double>(clock_.NowNs() - start_ns);
  }
  StepCostFit& fit() { return *fit_; }
  const std::vector<MeasuredStep>& start_up() const { return start_up_; }

 private:
  SteadyClock clock_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Weights> weights_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Phi3> phi3_;
  std::vector<uint64_t> mapped_;
  std::unique_ptr<Phi3Executor> executor_;
  std::unique_ptr<StepCostFit> fit_;
  std::vector<MeasuredStep> start_up_;
};

// Two to four requests: decodes and chunks at random places.
std::vector<ShapedEntry> DrawStep(const Options& options, std::mt19937_64& random) {
  const auto between = [&random](int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
  };
  std::vector<ShapedEntry> entries(between(2, kRequestsMax));
  for (ShapedEntry& entry : entries) {
    if (random() % 2 == 0) {
      entry.first = between(1, kPositionMax - 2);
      entry.end = entry.first + 1;
      entry.phase = Phase::kDecode;
    } else {
      const int64_t tokens = between(8, options.chunk_max);
      entry.first = between(0, kPositionMax - tokens);
      entry.end = entry.first + tokens;
    }
  }
  return entries;
}

// Median time of each subset of the requests; [0] is nobody's. The repeats go round, so that a busy
// moment of the machine meets all subsets alike.
std::vector<double> TimeSubsets(Machine& machine, const std::vector<ShapedEntry>& entries,
                                int32_t repeats) {
  const size_t subsets = size_t{1} << entries.size();
  std::vector<ShapedStep> steps;
  for (size_t subset = 1; subset < subsets; ++subset) {
    std::vector<ShapedEntry> present;
    for (size_t i = 0; i < entries.size(); ++i) {
      if (subset >> i & 1) present.push_back(entries[i]);
    }
    steps.emplace_back(present, kBlockTokens);
  }
  std::vector<std::vector<double>> times(subsets);
  for (int32_t repeat = 0; repeat < repeats; ++repeat) {
    for (size_t subset = 1; subset < subsets; ++subset) {
      times[subset].push_back(machine.Time(steps[subset - 1]));
    }
  }
  std::vector<double> medians(subsets, 0.0);
  for (size_t subset = 1; subset < subsets; ++subset) {
    std::sort(times[subset].begin(), times[subset].end());
    medians[subset] = times[subset][times[subset].size() / 2];
  }
  return medians;
}

std::vector<double> Shapley(const std::vector<double>& times, size_t players) {
  std::vector<double> values(players, 0.0);
  for (size_t i = 0; i < players; ++i) {
    for (size_t subset = 0; subset < times.size(); ++subset) {
      if (subset >> i & 1) continue;
      const int others = std::popcount(subset);
      const double weight = std::tgamma(others + 1) *
                            std::tgamma(static_cast<double>(players) - others) /
                            std::tgamma(static_cast<double>(players) + 1);
      values[i] += weight * (times[subset | size_t{1} << i] - times[subset]);
    }
  }
  return values;
}

// What the ledger charges each of them for a step of so long.
std::vector<double> Charge(const StepCostCoefficients& coefficients,
                           const std::vector<ShapedEntry>& entries, double step_ns) {
  CostLedger ledger({.coefficients = coefficients, .players_max = kRequestsMax});
  std::vector<Charges> charges(entries.size());
  std::vector<StepPlayer> players;
  for (size_t i = 0; i < entries.size(); ++i) {
    const ShapedEntry& entry = entries[i];
    StepPlayer player = {&charges[i], static_cast<int64_t>(i), {}, {}};
    (entry.phase == Phase::kPrefill ? player.prefill : player.decode) =
        WorkOf(entry.first, entry.end, entry.phase);
    players.push_back(player);
  }
  ledger.ChargeStep(players, std::llround(step_ns));
  std::vector<double> charged;
  for (const Charges& one : charges) charged.push_back(static_cast<double>(one.machine_ns));
  return charged;
}

struct Deviations {
  double ledger = 0;
  double tokens = 0;
  double heads = 0;
  double wall = 0;
};

Deviations DeviationsOf(const StepCostCoefficients& coefficients,
                        const std::vector<ShapedEntry>& entries, const std::vector<double>& times) {
  const double step_ns = times.back();
  const std::vector<double> fair = Shapley(times, entries.size());
  const std::vector<double> charged = Charge(coefficients, entries, step_ns);
  double tokens = 0;
  for (const ShapedEntry& entry : entries) tokens += static_cast<double>(entry.end - entry.first);
  Deviations sums;
  for (size_t i = 0; i < entries.size(); ++i) {
    const double own = static_cast<double>(entries[i].end - entries[i].first);
    sums.ledger += std::abs(charged[i] - fair[i]) / step_ns;
    sums.tokens += std::abs(step_ns * own / tokens - fair[i]) / step_ns;
    sums.heads += std::abs(step_ns / static_cast<double>(entries.size()) - fair[i]) / step_ns;
    sums.wall += std::abs(step_ns - fair[i]) / step_ns;
  }
  return sums;
}

void Run(const Options& options) {
  Machine machine(options);
  const StepCostModel first(machine.fit().coefficients(), 0);
  for (const MeasuredStep& step : machine.start_up()) {
    std::printf("start-up: %4lld tokens on %6lld keys, %9.3f ms, modelled %9.3f ms\n",
                static_cast<long long>(step.work.tokens),
                static_cast<long long>(step.work.kv_read_tokens), step.measured_ns / 1e6,
                first.StepNs(step.work) / 1e6);
  }
  std::mt19937_64 random(options.seed);
  // Traffic before, from which the fit learns as it does in service; its last half judges it.
  RecentErrors errors;
  for (int32_t i = 0; i < options.traffic; ++i) {
    ShapedStep step(DrawStep(options, random), kBlockTokens);
    const double measured_ns = machine.Time(step);
    const StepCostModel model(machine.fit().coefficients(), 0);
    if (2 * i >= options.traffic) errors.Add(measured_ns, model.StepNs(step.work()));
    machine.fit().Add(step.work(), measured_ns);
    machine.fit().Refine();
  }
  const StepCostCoefficients c = machine.fit().coefficients();
  std::printf("model %s, %d layers asked for (0: all), weights %s\n", options.model.c_str(),
              options.layers, options.weights.c_str());
  std::printf(
      "fitted: launch %.3f ms, weights %.3f ms, token %.4f ms, attention %.2f ns, "
      "KV read %.1f ns a token\n",
      c.launch_ns / 1e6, c.weights_ns / 1e6, c.token_ns / 1e6, c.attention_ns, c.kv_read_ns);
  std::printf("step-model error over the traffic's last half: p50 %.1f %%, p95 %.1f %%\n",
              100 * errors.Quantile(0.5), 100 * errors.Quantile(0.95));
  Deviations mean;
  double charges = 0;
  for (int32_t i = 0; i < options.steps; ++i) {
    const std::vector<ShapedEntry> entries = DrawStep(options, random);
    const std::vector<double> times = TimeSubsets(machine, entries, options.repeats);
    const Deviations sums = DeviationsOf(c, entries, times);
    std::printf(
        "step %2d: %zu requests, %8.3f ms; off by: ledger %5.1f %%, tokens %5.1f %%, "
        "heads %5.1f %%\n",
        i + 1, entries.size(), times.back() / 1e6, 100 * sums.ledger, 100 * sums.tokens,
        100 * sums.heads);
    std::fflush(stdout);
    mean.ledger += sums.ledger;
    mean.tokens += sums.tokens;
    mean.heads += sums.heads;
    mean.wall += sums.wall;
    charges += 1;  // the charges of a step are 1 of it
  }
  std::printf("mean deviation from the measured Shapley value, in parts of the mean charge\n");
  std::printf("  the ledger                  %6.1f %%\n", 100 * mean.ledger / charges);
  std::printf("  billing by tokens           %6.1f %%\n", 100 * mean.tokens / charges);
  std::printf("  equal parts of the time     %6.1f %%\n", 100 * mean.heads / charges);
  std::printf("  each its own wall time      %6.1f %%\n", 100 * mean.wall / charges);
}

}  // namespace
}  // namespace tuppence

int main(int argc, char** argv) {
  CLI::App app("Hold the ledger's charges against what each request costs this machine");
  tuppence::Options options;
  app.add_option("--model", options.model, "Checkpoint folder or synthetic:NAME")
      ->capture_default_str();
  app.add_option("--weights", options.weights, "bf16, f32, int8 or int4")->capture_default_str();
  app.add_option("--layers", options.layers, "Of a synthetic model; 0: all it has")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--threads", options.threads, "0: as many as the machine has cores")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--steps", options.steps, "Mixed steps that are taken apart")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--repeats", options.repeats, "Runs of each subset; the median counts")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--chunk-max", options.chunk_max, "Tokens of a prefill chunk, 8 to this")
      ->check(CLI::Range(8, 128))
      ->capture_default_str();
  app.add_option("--traffic", options.traffic, "Mixed steps before, to refine the model with")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--warm-up-seconds", options.warm_up_seconds, "Budget of the start-up fit")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--seed", options.seed, "The same seed draws the same steps")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  tuppence::Run(options);
  return 0;
}
