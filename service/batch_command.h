// `tuppence batch IN.jsonl OUT.jsonl`: a file of OpenAI batch lines through a running service, or
// through a model loaded here; each answer with its usage, its cost and how sure the model was, and
// totals at the end. Stopped or killed at any moment, the same command goes on where it was. Called
// by main.
#pragma once

#include <string>

#include "service/client.h"
#include "service/options.h"

namespace CLI {
class App;
}

namespace tuppence {

struct BatchOptions {
  std::string input;
  std::string output;
  ClientOptions client;
  ModelOptions model;  // a checkpoint to load here, without a port; none: ask the service
  RateOptions rates;   // what this machine costs, for a model loaded here
  std::string reference_price;
  int concurrency = 32;
  double patience_seconds = 300;
};

// The exit code: 0 all lines answered, 2 all done and some refused, 1 not done.
int RunBatch(const BatchOptions& options);

// The subcommand; its callback leaves the exit code in *exit_code, which outlives the parsing.
void AddBatchCommand(CLI::App& app, int* exit_code);

}  // namespace tuppence
