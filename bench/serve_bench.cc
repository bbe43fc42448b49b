// serve_bench: drives a running service over gRPC as callers would, and prints what they would see:
// time to first token, inter-token latency, throughput, errors and cost. Options and main; load
// says which requests, load_generator sends them, load_report prints.
//
//   tuppence serve --model synthetic:phi-3-mini-4k --price-per-hour 0.526 &
//   serve_bench --concurrency 8 --requests 200 --prompt 300 --output 60 --json result.json
#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>

#include "bench/load.h"
#include "bench/load_generator.h"
#include "bench/load_report.h"
#include "service/client.h"
#include "service/client_flags.h"

namespace tuppence {
namespace {

void AddLengthFlag(CLI::App& app, const std::string& name, LengthRange* range,
                   const std::string& help) {
  app.add_option_function<std::string>(
         name,
         [name, range](const std::string& text) {
           const absl::StatusOr<LengthRange> parsed = ParseLengthRange(text);
           if (!parsed.ok()) {
             throw CLI::ValidationError(name, std::string(parsed.status().message()));
           }
           *range = *parsed;
         },
         help)
      ->type_name("N|MIN-MAX")
      ->default_str(std::to_string(range->max));
}

void AddFlags(CLI::App& app, TrafficOptions* options, std::string* json_path) {
  AddClientFlags(app, &options->client);
  app.add_option(
      "--http", options->http,
      "Send the load to the OpenAI-compatible door at this IP:PORT, streamed, in place of "
      "gRPC");
  app.add_option("--channels", options->channels, "Connections that the calls share")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  CLI::Option* concurrency =
      app.add_option("--concurrency", options->concurrency, "Closed loop: callers at a time")
          ->check(CLI::PositiveNumber)
          ->capture_default_str();
  CLI::Option* requests =
      app.add_option("--requests", options->requests, "Closed loop: requests in all")
          ->check(CLI::PositiveNumber)
          ->capture_default_str();
  app.add_option("--warmup", options->warmup, "Requests before those, which are not counted")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  CLI::Option* rate = app.add_option("--rate", options->rate,
                                     "Open loop: arrivals a second, at random, whatever the "
                                     "answers do; times then count from the arrival")
                          ->check(CLI::PositiveNumber)
                          ->excludes(requests);
  app.add_option("--seconds", options->seconds, "Open loop: how long")
      ->needs(rate)
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--outstanding-max", options->outstanding_max,
                 "Open loop: arrivals beyond so many open calls are counted and not sent")
      ->needs(rate)
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  rate->excludes(concurrency);
  AddLengthFlag(app, "--prompt", &options->prompt, "Tokens of a prompt, or any in a range");
  AddLengthFlag(app, "--output", &options->output, "Tokens of an answer, or any in a range");
  app.add_flag("--text", options->text,
               "Prompts of words, about a token each, in place of random token ids");
  app.add_flag("--stop-early", options->stop_early,
               "Let the model end its answers; otherwise each has the length asked for");
  app.add_option("--temperature", options->temperature, "Above 0 draws")->capture_default_str();
  app.add_option("--seed", options->seed, "The same seed makes the same load")
      ->capture_default_str();
  app.add_option("--json", *json_path, "Write the result to this file too");
}

int Run(const TrafficOptions& options, const std::string& json_path) {
  absl::StatusOr<std::unique_ptr<Client>> client = Client::Make(options.client);
  v1::GetModelResponse model;
  absl::Status status = client.ok() ? (*client)->GetModel(&model) : client.status();
  const auto result = std::make_unique<LoadResult>();
  if (status.ok()) status = RunLoad(options, model.vocab(), result.get());
  if (!status.ok()) {
    std::fprintf(stderr, "error: %s\n", status.ToString().c_str());
    return 1;
  }
  std::fputs(LoadTable(options, model, result.get()).c_str(), stdout);
  if (!json_path.empty()) {
    std::ofstream file(json_path);
    if (!(file << LoadJson(options, model, result.get())) || !file.flush()) {
      std::fprintf(stderr, "error: cannot write %s\n", json_path.c_str());
      return 1;
    }
  }
  return result->errors_total() == 0 && result->not_sent == 0 ? 0 : 1;
}

}  // namespace
}  // namespace tuppence

int main(int argc, char** argv) {
  CLI::App app("Load a running tuppence service and measure what its callers see");
  app.footer(
      "Exits 0 when every request got its whole answer, 1 otherwise.\n\n"
      "  serve_bench --concurrency 4000 --requests 8000 --prompt 32 --output 64 --channels 16\n"
      "  serve_bench --rate 20 --seconds 60 --prompt 100-500 --output 20-100 --json result.json");
  tuppence::TrafficOptions options;
  std::string json_path;
  tuppence::AddFlags(app, &options, &json_path);
  CLI11_PARSE(app, argc, argv);
  return tuppence::Run(options, json_path);
}
