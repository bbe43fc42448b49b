// See chat_command.h.
#include "service/chat_command.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "service/client_flags.h"
#include "service/money.h"
#include "service/terminal.h"

namespace tuppence {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kFailed = 1;
constexpr int kInterrupted = 130;  // as a shell says of what Ctrl-C ended

// One answer as it came.
struct Answer {
  absl::Status status;
  std::string request_id;
  std::string text;
  v1::FinishReason finish_reason = v1::FINISH_REASON_UNSPECIFIED;
  double first_text_seconds = -1;  // as seen here, the network included
  std::optional<v1::Usage> usage;
  v1::Cost cost;
};

void WriteOut(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

void WriteError(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stderr); }

v1::ChatMessage Message(v1::Role role, std::string_view content) {
  v1::ChatMessage message;
  message.set_role(role);
  message.set_content(std::string(content));
  return message;
}

bool IsUtf8(std::string_view text) {
  while (!text.empty()) {
    const int bytes = CharacterBytes(text);
    if (bytes == 0) return false;
    text.remove_prefix(bytes);
  }
  return true;
}

// Speed is that of decoding: the first token's wait is told beside it.
std::string StatisticsLine(const Answer& answer) {
  if (!answer.usage.has_value()) return "";
  const v1::Usage& usage = *answer.usage;
  std::string line;
  if (answer.first_text_seconds >= 0) {
    absl::StrAppendFormat(&line, "first token %.1f ms, ", answer.first_text_seconds * 1e3);
  }
  if (usage.completion_tokens() > 1 && usage.decode_seconds() > 0) {
    absl::StrAppendFormat(&line, "%.1f tokens/s, ",
                          (usage.completion_tokens() - 1) / usage.decode_seconds());
  }
  absl::StrAppend(&line, usage.completion_tokens(), " tokens after ", usage.prompt_tokens(), ", ");
  if (answer.cost.has_cost_nanousd()) {
    absl::StrAppend(&line, "cost ", FormatUsd(answer.cost.cost_nanousd()), " USD (",
                    absl::StrFormat("%.2f ms of the machine", answer.cost.machine_ns() * 1e-6),
                    ", rate card ", answer.cost.rate_card_id(), ")");
  } else {
    absl::StrAppendFormat(&line, "%.2f ms of the machine, no rate card",
                          answer.cost.machine_ns() * 1e-6);
  }
  if (usage.has_energy_joules()) {
    absl::StrAppendFormat(&line, ", %.3g J", usage.energy_joules());
  }
  absl::StrAppend(&line, ", request ", answer.request_id);
  if (answer.finish_reason == v1::FINISH_REASON_LENGTH) line += "; cut at max_tokens";
  if (answer.finish_reason == v1::FINISH_REASON_COST_LIMIT) line += "; cut at max_cost_nanousd";
  return line;
}

class Conversation {
 public:
  Conversation(const ChatOptions& options, Client* client)
      : options_(options), client_(client), to_terminal_(IsTerminal(STDOUT_FILENO)) {
    *request_.mutable_sampling() = Sampling(options);
    Reset();
  }

  void Reset() {
    request_.mutable_chat()->clear_messages();
    if (!options_.system.empty()) Add(v1::ROLE_SYSTEM, options_.system);
  }

  // Asks, shows the answer, and keeps both for the next question. An answer that was interrupted
  // stays as far as it came; after an error the question is forgotten, so that it can be put anew.
  // What the program's exit code would be.
  int Ask(std::string_view question) {
    if (!IsUtf8(question)) {
      WriteError("error: the message is not valid UTF-8; check the terminal's encoding\n");
      return kFailed;
    }
    Add(v1::ROLE_USER, question);
    interrupted_ = false;
    const Answer answer = Stream();
    if (!answer.text.empty() && answer.text.back() != '\n') WriteOut("\n");
    const bool interrupted = interrupted_ && answer.status.code() == absl::StatusCode::kCancelled;
    if (interrupted) {
      WriteError(Dim("[interrupted]", STDERR_FILENO) + "\n");
    } else if (!answer.status.ok()) {
      WriteError(absl::StrCat("error: ", absl::StatusCodeToString(answer.status.code()), ": ",
                              answer.status.message(), "\n"));
    }
    const std::string statistics = StatisticsLine(answer);
    if (!statistics.empty()) WriteError(Dim("[" + statistics + "]", STDERR_FILENO) + "\n");
    if ((answer.status.ok() || interrupted) && !answer.text.empty()) {
      Add(v1::ROLE_ASSISTANT, answer.text);
    } else {
      request_.mutable_chat()->mutable_messages()->RemoveLast();
    }
    return answer.status.ok() ? 0 : interrupted ? kInterrupted : kFailed;
  }

  // Ctrl-C: the first ends the answer, whose stream then stops within a step; the next one, or one
  // between answers, is not for us. Called by another thread.
  bool Interrupt() { return !interrupted_.exchange(true) && client_->Cancel(); }

 private:
  static v1::SamplingParams Sampling(const ChatOptions& options) {
    v1::SamplingParams sampling;
    sampling.set_temperature(static_cast<float>(options.temperature));
    if (options.max_tokens) sampling.set_max_tokens(*options.max_tokens);
    if (options.seed) sampling.set_seed(*options.seed);
    return sampling;
  }

  void Add(v1::Role role, std::string_view content) {
    *request_.mutable_chat()->add_messages() = Message(role, content);
  }

  Answer Stream() {
    Answer answer;
    const auto start = Clock::now();
    answer.status = client_->Generate(request_, [&](const v1::GenerateResponse& message) {
      if (message.has_start()) answer.request_id = message.start().request_id();
      for (const v1::Choice& choice : message.choices()) {
        if (choice.finish_reason() != v1::FINISH_REASON_UNSPECIFIED) {
          answer.finish_reason = choice.finish_reason();
        }
        if (choice.text().empty()) continue;
        if (answer.first_text_seconds < 0) {
          answer.first_text_seconds = std::chrono::duration<double>(Clock::now() - start).count();
        }
        answer.text += choice.text();
        WriteOut(to_terminal_ ? WithoutControls(choice.text()) : choice.text());
      }
      if (message.has_usage()) answer.usage = message.usage();
      if (message.has_cost()) answer.cost = message.cost();
    });
    return answer;
  }

  const ChatOptions& options_;
  Client* const client_;
  const bool to_terminal_;
  std::atomic<bool> interrupted_ = false;
  v1::GenerateRequest request_;
};

int Converse(Conversation* conversation) {
  const bool from_terminal = IsTerminal(STDIN_FILENO);
  if (from_terminal) {
    WriteError(Dim("Type a message and Enter; /new starts over; Ctrl-C stops an answer; Ctrl-D "
                   "ends.",
                   STDERR_FILENO) +
               "\n");
  }
  std::string line;
  while (true) {
    if (from_terminal) WriteError("> ");
    if (!std::getline(std::cin, line)) break;
    if (line.empty()) continue;
    if (line == "/new") {
      conversation->Reset();
    } else if (const int exit_code = conversation->Ask(line); exit_code != 0 && !from_terminal) {
      return exit_code;
    }
  }
  if (from_terminal) WriteError("\n");
  return 0;
}

}  // namespace

int RunChat(const ChatOptions& options) {
  // The watch comes before gRPC's threads, which inherit its mask; it reaches the conversation,
  // made after it, through this pointer.
  std::atomic<Conversation*> current = nullptr;
  InterruptWatch watch([&current] {
    Conversation* conversation = current;
    return conversation != nullptr && conversation->Interrupt();
  });
  absl::StatusOr<std::unique_ptr<Client>> client = Client::Make(options.client);
  if (!client.ok()) {
    WriteError(absl::StrCat("error: ", client.status().message(), "\n"));
    return kFailed;
  }
  Conversation conversation(options, client->get());
  current = &conversation;
  const int exit_code =
      options.message ? conversation.Ask(*options.message) : Converse(&conversation);
  current = nullptr;
  return exit_code;
}

void AddChatCommand(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<ChatOptions>();
  CLI::App* command = app.add_subcommand(
      "chat", "Talk to a running service: streams the answer, then its speed and its cost");
  command->footer(
      "Without --message it is a conversation, a line of stdin each. The answer goes to stdout, "
      "its\n"
      "statistics and errors to stderr. Exits 0 when every answer came, 1 after an error, 130 "
      "after\n"
      "Ctrl-C.\n\n"
      "  tuppence chat --system \"Order 48213: status shipped; ...\" --message \"Where is it?\"");
  AddClientFlags(*command, &options->client);
  command->add_option("--system", options->system,
                      "System message: what the assistant should know and how it should behave");
  command->add_option("--message", options->message, "Ask this one question, and exit");
  command
      ->add_option("--temperature", options->temperature,
                   "0 always takes the likeliest token; up to 2 draws more freely")
      ->capture_default_str();
  command->add_option("--max-tokens", options->max_tokens,
                      "Longest answer, in tokens; left out: the service's default");
  command->add_option("--seed", options->seed,
                      "The same seed draws the same answer; matters above temperature 0");
  command->callback([options, exit_code] { *exit_code = RunChat(*options); });
}

}  // namespace tuppence
