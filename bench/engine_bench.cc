// Host time of an engine step: everything but the model. NullExecutor answers at once, so that what
// is left is planning, building the batch, charging and delivering, with readers that take each
// step. Prints one line for each number of running sequences.
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

// Decode steps of `sequences` running requests whose prompts have prompt_tokens tokens.
Figures MeasureDecode(int32_t sequences, int32_t prompt_tokens, int32_t steps) {
  const SteadyClock clock;
  NullExecutor executor(kVocab);
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
  step_ns.reserve(steps);
  while (static_cast<int32_t>(step_ns.size()) < steps) {
    const int64_t start_ns = clock.NowNs();
    engine.Step();
    const int64_t end_ns = clock.NowNs();
    for (const auto& stream : streams) stream->Take(&delta);
    engine.notifier()->NotifyAll();
    const EngineSnapshot snapshot = engine.Snapshot();
    const bool all_decode = snapshot.prefill_tokens == int64_t{sequences} * prompt_tokens;
    if (all_decode) step_ns.push_back(end_ns - start_ns);
  }
  return FiguresOf(std::move(step_ns));
}

void Run(int32_t steps) {
  std::printf("host time per decode step, NullExecutor, %d steps each\n", steps);
  std::printf("%10s %14s %10s %10s %10s\n", "sequences", "prompt_tokens", "median_us", "p99_us",
              "max_us");
  for (const int32_t sequences : {1, 16, 64, 256}) {
    for (const int32_t prompt_tokens : {300, 1024}) {
      const Figures figures = MeasureDecode(sequences, prompt_tokens, steps);
      std::printf("%10d %14d %10.1f %10.1f %10.1f\n", sequences, prompt_tokens, figures.median_us,
                  figures.p99_us, figures.max_us);
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
