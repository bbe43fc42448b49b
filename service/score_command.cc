// See score_command.h.
#include "service/score_command.h"

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "service/client_flags.h"
#include "service/local_service.h"
#include "service/terminal.h"

namespace tuppence {
namespace {

using Json = nlohmann::ordered_json;

absl::StatusOr<std::vector<Score::Token>> PromptTokens(const ScoreOptions& options,
                                                       Client* client) {
  std::vector<Score::Token> tokens;
  if (!options.text.has_value()) {
    for (const int32_t id : options.token_ids) tokens.emplace_back().id = id;
    return tokens;
  }
  v1::TokenizeRequest request;
  request.set_text(*options.text);
  v1::TokenizeResponse response;
  const absl::Status status = client->Tokenize(request, &response);
  if (!status.ok()) return status;
  for (int i = 0; i < response.token_ids_size(); ++i) {
    Score::Token& token = tokens.emplace_back();
    token.id = response.token_ids(i);
    if (i < response.token_bytes_size()) token.bytes = response.token_bytes(i);
  }
  return tokens;
}

// One new token is the least that can be asked for; it is thrown away.
v1::GenerateRequest MakeRequest(const std::vector<Score::Token>& tokens, int32_t top) {
  v1::GenerateRequest request;
  for (const Score::Token& token : tokens) request.mutable_token_ids()->add_ids(token.id);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_max_tokens(1);
  request.mutable_output()->set_no_text(true);
  request.mutable_output()->set_prompt_logprobs(true);
  if (top > 0) request.mutable_output()->set_prompt_top_logprobs(top);
  return request;
}

Json TokenJson(const v1::TokenLogprob& token) {
  return {
      {"token_id", token.token_id()}, {"text", token.token_bytes()}, {"logprob", token.logprob()}};
}

absl::StatusOr<Score> RunAnywhere(const ScoreOptions& options) {
  if (options.model.model.empty()) {
    absl::StatusOr<std::unique_ptr<Client>> client = Client::Make(options.client);
    if (!client.ok()) return client.status();
    return ScorePrompt(options, client->get());
  }
  absl::StatusOr<std::unique_ptr<LocalService>> service = LocalService::Load(options.model);
  if (!service.ok()) return service.status();
  return ScorePrompt(options, (*service)->client());
}

void AddFlags(CLI::App* command, ScoreOptions* options) {
  AddClientFlags(*command, &options->client);
  options->model.sequences_max = 1;  // room for one prompt is all that is needed
  AddModelFlags(*command, &options->model);
  // These come from the command line alone: a TUPPENCE_MODEL that is meant for `serve` must not
  // make us load what we were to ask a running service for.
  for (CLI::Option* option : command->get_options()) option->envname("");
  CLI::Option* model = command->get_option("--model");
  model->description(
      "Load this checkpoint here, with no service and no port: folder, or "
      "synthetic:NAME");
  model->excludes("--address");
  CLI::Option_group* prompt = command->add_option_group("Prompt", "What to score, one of:");
  prompt->add_option("--text", options->text, "A text, tokenised as the model's own prompts are");
  prompt->add_option("--token-ids", options->token_ids, "Token ids as they stand: 1,450,...")
      ->delimiter(',');
  prompt->require_option(1);
  command->add_option("--top", options->top, "Also the so many likeliest tokens at each position")
      ->check(CLI::Range(0, 20))
      ->capture_default_str();
  command->add_flag("--json", options->json, "Print JSON in place of a table");
}

}  // namespace

double Score::perplexity() const {
  return scored_tokens == 0 ? 1 : std::exp(-total_logprob / static_cast<double>(scored_tokens));
}

absl::StatusOr<Score> ScorePrompt(const ScoreOptions& options, Client* client) {
  Score score;
  absl::Status status = client->GetModel(&score.model);
  if (!status.ok()) return status;
  absl::StatusOr<std::vector<Score::Token>> tokens = PromptTokens(options, client);
  if (!tokens.ok()) return tokens.status();
  score.tokens = *std::move(tokens);
  size_t position = 1;
  status = client->Generate(MakeRequest(score.tokens, options.top),
                            [&](const v1::GenerateResponse& message) {
                              for (const v1::PositionLogprobs& from : message.prompt_logprobs()) {
                                if (position >= score.tokens.size()) return;
                                Score::Token& token = score.tokens[position++];
                                token.bytes = from.chosen().token_bytes();
                                token.logprob = from.chosen().logprob();
                                token.top.assign(from.top().begin(), from.top().end());
                                score.total_logprob += from.chosen().logprob();
                                ++score.scored_tokens;
                              }
                            });
  if (!status.ok()) return status;
  if (position < score.tokens.size()) {
    return absl::InternalError(absl::StrCat("the service sent log-probabilities up to position ",
                                            position - 1, " of ", score.tokens.size() - 1));
  }
  return score;
}

std::string FormatScoreTable(const Score& score) {
  std::string table = "position  token id  log-probability  text\n";
  for (size_t i = 0; i < score.tokens.size(); ++i) {
    const Score::Token& token = score.tokens[i];
    const std::string logprob =
        token.logprob.has_value() ? absl::StrFormat("%.6f", *token.logprob) : "-";
    absl::StrAppendFormat(&table, "%8d  %8d  %15s  %s\n", i, token.id, logprob,
                          Quoted(token.bytes));
    for (const v1::TokenLogprob& other : token.top) {
      absl::StrAppendFormat(&table, "%8s  %8d  %15.6f    %s\n", "", other.token_id(),
                            other.logprob(), Quoted(other.token_bytes()));
    }
  }
  absl::StrAppendFormat(
      &table, "total %.6f over %d tokens, perplexity %.6f; %s, weights %s, kv %s, arithmetic %s\n",
      score.total_logprob, score.scored_tokens, score.perplexity(), score.model.name(),
      score.model.weight_type(), score.model.kv_type(), score.model.arithmetic_id());
  return table;
}

std::string FormatScoreJson(const Score& score) {
  Json tokens = Json::array();
  for (const Score::Token& token : score.tokens) {
    Json entry = {{"token_id", token.id}, {"text", token.bytes}, {"logprob", nullptr}};
    if (token.logprob.has_value()) entry["logprob"] = *token.logprob;
    if (!token.top.empty()) {
      entry["top"] = Json::array();
      for (const v1::TokenLogprob& other : token.top) entry["top"].push_back(TokenJson(other));
    }
    tokens.push_back(std::move(entry));
  }
  const Json document = {
      {"model", score.model.name()},          {"weight_type", score.model.weight_type()},
      {"kv_type", score.model.kv_type()},     {"arithmetic_id", score.model.arithmetic_id()},
      {"tokens", std::move(tokens)},          {"scored_tokens", score.scored_tokens},
      {"total_logprob", score.total_logprob}, {"perplexity", score.perplexity()}};
  // A token may be part of a character: JSON shows such bytes as U+FFFD.
  return document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

int RunScore(const ScoreOptions& options) {
  const absl::StatusOr<Score> score = RunAnywhere(options);
  if (!score.ok()) {
    const std::string message(score.status().message());
    std::fprintf(stderr, "error: %s: %s\n", absl::StatusCodeToString(score.status().code()).c_str(),
                 message.c_str());
    return 1;
  }
  const std::string text = options.json ? FormatScoreJson(*score) : FormatScoreTable(*score);
  return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() ? 0 : 1;
}

void AddScoreCommand(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<ScoreOptions>();
  CLI::App* command = app.add_subcommand(
      "score", "Log-probability of each token of a text, their total and the perplexity");
  command->footer(
      "Log-probabilities are natural logarithms, of the raw logits. The first token has none:\n"
      "nothing precedes it.\n\n"
      "  tuppence score --address 127.0.0.1:8033 --text \"Where is my order?\"\n"
      "  tuppence score --model DIR --weights int8 --token-ids 1,450,1234 --top 5 --json");
  AddFlags(command, options.get());
  command->callback([options, exit_code] { *exit_code = RunScore(*options); });
}

}  // namespace tuppence
