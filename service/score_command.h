// `tuppence score`: the log-probability of each token of a text or of given token ids, their total
// and the perplexity; from a running service, or from a checkpoint loaded here. The way to check a
// checkpoint or a quantisation, and the tool of the golden tests. Called by main.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "service/client.h"
#include "service/options.h"

namespace CLI {
class App;
}

namespace tuppence {

struct ScoreOptions {
  ClientOptions client;
  ModelOptions model;  // a checkpoint to load here, without a port; none: ask the service
  std::optional<std::string> text;
  std::vector<int32_t> token_ids;  // in place of text
  int32_t top = 0;                 // alternatives shown at each position
  bool json = false;
};

// One prompt and what the model thought of it.
struct Score {
  struct Token {
    int32_t id = 0;
    std::string bytes;
    std::optional<float> logprob;  // none for the first: nothing precedes it
    std::vector<v1::TokenLogprob> top;
  };

  v1::GetModelResponse model;
  std::vector<Token> tokens;
  double total_logprob = 0;
  int64_t scored_tokens = 0;

  double perplexity() const;  // exp of the mean loss; 1 for a prompt without a scored token
};

// Through Generate with prompt log-probabilities, whatever the client is connected to.
absl::StatusOr<Score> ScorePrompt(const ScoreOptions& options, Client* client);

std::string FormatScoreTable(const Score& score);
std::string FormatScoreJson(const Score& score);

// The exit code: 0, or 1 with the error on stderr.
int RunScore(const ScoreOptions& options);

// The subcommand; its callback leaves the exit code in *exit_code, which outlives the parsing.
void AddScoreCommand(CLI::App& app, int* exit_code);

}  // namespace tuppence
