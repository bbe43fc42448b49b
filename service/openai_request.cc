#include "service/openai_request.h"

#include <limits>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "model/batch.h"
#include "model/strict_json.h"
#include "service/json_reader.h"
#include "service/openai_messages.h"
#include "service/rpc_status.h"
#include "service/tenants.h"

namespace tuppence {
namespace {

using Json = nlohmann::json;

constexpr int64_t kKeysMax = 16384;  // of a whole body: the work of reading one stays small
constexpr size_t kUnknownShownMax = 4;

// Where the fields go while they are read.
struct Asked {
  OpenAiAsk out;
  std::optional<int32_t> max_tokens;
  std::optional<int32_t> max_completion_tokens;  // wins
  std::optional<int32_t> best_of;
  JsonReader read{&out.ask.violations};

  SamplingParams& sampling() { return out.ask.sampling; }
};

using ReadField = void (*)(const Json& value, const char* name, Asked* asked);
using FieldTable = std::map<std::string_view, ReadField>;

// Accepted, and without effect here.
void Ignore(const Json&, const char*, Asked*) {}

// Could change templates, caches or what is billed: never anybody's to send.
void RefuseAlways(const Json&, const char* name, Asked* asked) {
  asked->read.Refuse(name, "is never taken from a request; leave it out");
}

template <bool (*harmless)(const Json&)>
void RefuseUnless(const Json& value, const char* name, Asked* asked) {
  if (harmless(value)) return;
  asked->read.Refuse(name, "is not supported by this service; leave it out");
}
bool Never(const Json&) { return false; }
bool Empty(const Json& value) { return value.empty() || value == ""; }
bool IsFalse(const Json& value) { return value == false; }
bool AsksForText(const Json& value) {
  return value.is_object() && value.size() == 1 && value.contains("type") &&
         value["type"] == "text";
}
bool TextAlone(const Json& value) { return value == Json::array({"text"}); }
bool ChoosesNoTool(const Json& value) { return value == "none" || value == "auto"; }

template <auto member>
void ReadNumber(const Json& value, const char* name, Asked* asked) {
  asked->read.Number(value, name, &(asked->sampling().*member));
}
template <auto member>
void ReadInt(const Json& value, const char* name, Asked* asked) {
  asked->read.Int(value, name, &(asked->sampling().*member));
}
template <auto member>
void ReadBool(const Json& value, const char* name, Asked* asked) {
  asked->read.Bool(value, name, &(asked->sampling().*member));
}
template <auto member>
void ReadOptionalInt(const Json& value, const char* name, Asked* asked) {
  int32_t number = 0;
  if (asked->read.Int(value, name, &number)) asked->*member = number;
}

void ReadModel(const Json& value, const char* name, Asked* asked) {
  asked->read.String(value, name, &asked->out.ask.model);
}

void ReadMaxCost(const Json& value, const char* name, Asked* asked) {
  if (!value.is_number_integer() ||
      (value.is_number_unsigned() && value > std::numeric_limits<int64_t>::max())) {
    asked->read.Wrong(value, name, "a whole number of nano-dollars");
    return;
  }
  asked->out.ask.max_cost_nanousd = value.get<int64_t>();
}

// Any whole number of 64 bits; a negative one stands for its two's complement.
void ReadSeed(const Json& value, const char* name, Asked* asked) {
  if (value.is_number_unsigned()) {
    asked->sampling().seed = value.get<uint64_t>();
  } else if (value.is_number_integer()) {
    asked->sampling().seed = static_cast<uint64_t>(value.get<int64_t>());
  } else {
    asked->read.Wrong(value, name, "a whole number of 64 bits");
  }
}

void ReadStop(const Json& value, const char* name, Asked* asked) {
  const Json list = value.is_array() ? value : Json::array({value});
  for (const Json& stop : list) {
    std::string text;
    if (!asked->read.String(stop, name, &text)) return;
    asked->sampling().stop_strings.push_back(std::move(text));
  }
}

void ReadStopIds(const Json& value, const char* name, Asked* asked) {
  asked->read.Ints(value, name, &asked->sampling().stop_ids);
}

// {"token id": bias}.
void ReadLogitBias(const Json& value, const char* name, Asked* asked) {
  if (!value.is_object()) {
    asked->read.Wrong(value, name, "an object of token ids and biases, as {\"300\": -100}");
    return;
  }
  for (const auto& [key, entry] : value.items()) {
    TokenBias bias;
    const std::string field = absl::StrCat(name, "[", key.substr(0, 16), "]");
    if (!absl::SimpleAtoi(key, &bias.token_id)) {
      asked->read.Refuse(field, "is not a token id; /tokenize gives the ids of a text");
      return;
    }
    if (!asked->read.Number(entry, field.c_str(), &bias.bias)) return;
    asked->sampling().logit_bias.push_back(bias);
  }
}

void ReadChatLogprobs(const Json& value, const char* name, Asked* asked) {
  bool wanted = false;
  if (asked->read.Bool(value, name, &wanted) && wanted) asked->sampling().logprobs = true;
}

// How many alternatives; asking for some is asking for log-probabilities.
void ReadAlternatives(const Json& value, const char* name, Asked* asked) {
  if (!asked->read.Int(value, name, &asked->sampling().top_logprobs)) return;
  if (asked->sampling().top_logprobs != 0) asked->sampling().logprobs = true;
}

void ReadCompletionLogprobs(const Json& value, const char* name, Asked* asked) {
  int32_t top = 0;
  if (!asked->read.Int(value, name, &top)) return;
  // Here, for its name is this route's alone.
  if (top < 0 || top > kTopLogprobsMax) {
    asked->read.Refuse(name, absl::StrCat("is ", top, "; allowed is 0 to ", kTopLogprobsMax,
                                          "; 0 gives the chosen token's alone"));
    return;
  }
  asked->sampling().logprobs = true;
  asked->sampling().top_logprobs = top;
}

void ReadClass(const Json& value, const char* name, Asked* asked) {
  for (int i = 0; i < kPriorityClasses; ++i) {
    const auto priority_class = static_cast<PriorityClass>(i);
    if (value == NameOf(priority_class)) asked->out.ask.priority_class = priority_class;
  }
  if (!asked->out.ask.priority_class.has_value()) {
    asked->read.Wrong(value, name, "\"interactive\", \"standard\" or \"batch\"");
  }
}

void ReadTokenIdsWanted(const Json& value, const char* name, Asked* asked) {
  asked->read.Bool(value, name, &asked->out.token_ids);
}

void ReadStream(const Json& value, const char* name, Asked* asked) {
  asked->read.Bool(value, name, &asked->out.stream);
}

void ReadStreamOptions(const Json& value, const char* name, Asked* asked) {
  if (!value.is_object()) {
    asked->read.Wrong(value, name, "an object, as {\"include_usage\": true}");
    return;
  }
  for (const auto& [option, wanted] : value.items()) {
    const std::string field = absl::StrCat(name, ".", option);
    if (option == "include_usage") {
      if (!wanted.is_null()) asked->read.Bool(wanted, field, &asked->out.include_usage);
    } else if (option != "include_obfuscation") {  // known, and without effect
      asked->read.Unknown(field);
    }
  }
}

void ReadMessages(const Json& value, const char*, Asked* asked) {
  asked->out.ask.prompt.kind = PromptKind::kChat;
  asked->out.ask.prompt.chat = ReadChat(value, &asked->read);
}

// A text or one list of token ids; a list of one of these is the same.
void ReadPrompt(const Json& value, const char* name, Asked* asked) {
  Prompt& prompt = asked->out.ask.prompt;
  const bool is_list = value.is_array() && !value.empty() && !value[0].is_number();
  if (is_list && value.size() > 1) {
    asked->read.Refuse(name, absl::StrCat("has ", value.size(),
                                          " prompts; one is allowed; send a request for each"));
    return;
  }
  const Json& one = is_list ? value[0] : value;
  if (one.is_string()) {
    prompt.kind = PromptKind::kText;
    prompt.text = one.get<std::string>();
  } else if (one.is_array()) {
    prompt.kind = PromptKind::kTokenIds;
    asked->read.Ints(one, name, &prompt.token_ids);
  } else {
    asked->read.Wrong(one, name, "a text, or a list of token ids");
  }
}

void ReadTokens(const Json& value, const char* name, Asked* asked) {
  asked->read.Ints(value, name, &asked->out.tokens);
}

void RequireTrue(const Json& value, const char* name, Asked* asked) {
  if (value != true) {
    asked->read.Wrong(value, name, "true: prompts are always read as Generate reads them");
  }
}

// In every table.
const FieldTable kEverywhere = {
    {"model", ReadModel},
    {"user", Ignore},
    {"cache_salt", RefuseAlways},
    {"chat_template", RefuseAlways},
    {"chat_template_kwargs", RefuseAlways},
    {"cost", RefuseAlways},
    {"kv_transfer_params", RefuseAlways},
    {"price", RefuseAlways},
    {"prompt_embeds", RefuseAlways},
    {"prompt_tokens", RefuseAlways},
    {"completion_tokens", RefuseAlways},
    {"tenant", RefuseAlways},
    {"tenant_id", RefuseAlways},
    {"usage", RefuseAlways},
};

// Of every answer.
const FieldTable kSampling = {
    {"frequency_penalty", ReadNumber<&SamplingParams::frequency_penalty>},
    {"ignore_eos", ReadBool<&SamplingParams::ignore_eos>},
    {"include_stop_str_in_output", ReadBool<&SamplingParams::include_stop_string>},
    {"logit_bias", ReadLogitBias},
    {"max_cost_nanousd", ReadMaxCost},
    {"max_tokens", ReadOptionalInt<&Asked::max_tokens>},
    {"min_p", ReadNumber<&SamplingParams::min_p>},
    {"min_tokens", ReadInt<&SamplingParams::min_tokens>},
    {"n", ReadInt<&SamplingParams::choices>},
    {"presence_penalty", ReadNumber<&SamplingParams::presence_penalty>},
    {"priority_class", ReadClass},
    {"repetition_penalty", ReadNumber<&SamplingParams::repetition_penalty>},
    {"return_token_ids", ReadTokenIdsWanted},
    {"seed", ReadSeed},
    {"stop", ReadStop},
    {"stop_token_ids", ReadStopIds},
    {"stream", ReadStream},
    {"stream_options", ReadStreamOptions},
    {"temperature", ReadNumber<&SamplingParams::temperature>},
    {"top_k", ReadInt<&SamplingParams::top_k>},
    {"top_p", ReadNumber<&SamplingParams::top_p>},
};

const FieldTable kChat = {
    {"messages", ReadMessages},
    {"audio", RefuseUnless<Never>},
    {"function_call", RefuseUnless<ChoosesNoTool>},
    {"functions", RefuseUnless<Empty>},
    {"logprobs", ReadChatLogprobs},
    {"max_completion_tokens", ReadOptionalInt<&Asked::max_completion_tokens>},
    {"metadata", Ignore},
    {"modalities", RefuseUnless<TextAlone>},
    {"parallel_tool_calls", Ignore},
    {"prediction", Ignore},
    {"prompt_cache_key", Ignore},
    {"prompt_cache_retention", Ignore},
    {"reasoning_effort", Ignore},
    {"response_format", RefuseUnless<AsksForText>},
    {"safety_identifier", Ignore},
    {"service_tier", Ignore},
    {"store", Ignore},
    {"tool_choice", RefuseUnless<ChoosesNoTool>},
    {"tools", RefuseUnless<Empty>},
    {"top_logprobs", ReadAlternatives},
    {"verbosity", Ignore},
    {"web_search_options", RefuseUnless<Never>},
};

const FieldTable kCompletion = {
    {"prompt", ReadPrompt},          {"best_of", ReadOptionalInt<&Asked::best_of>},
    {"echo", RefuseUnless<IsFalse>}, {"logprobs", ReadCompletionLogprobs},
    {"suffix", RefuseUnless<Empty>},
};

const FieldTable kTokenize = {
    {"messages", ReadMessages},
    {"prompt", ReadPrompt},
    {"add_generation_prompt", RequireTrue},
    {"add_special_tokens", RequireTrue},
    {"return_token_strs", Ignore},
};

const FieldTable kDetokenize = {{"tokens", ReadTokens}};

// The tables of a kind of request, the likeliest first.
std::vector<const FieldTable*> TablesOf(OpenAiKind kind) {
  switch (kind) {
    case OpenAiKind::kChat:
      return {&kChat, &kSampling, &kEverywhere};
    case OpenAiKind::kCompletion:
      return {&kCompletion, &kSampling, &kEverywhere};
    case OpenAiKind::kTokenize:
      return {&kTokenize, &kEverywhere};
    case OpenAiKind::kDetokenize:
      return {&kDetokenize, &kEverywhere};
  }
  return {};
}

ReadField FindField(const std::vector<const FieldTable*>& tables, const std::string& name) {
  for (const FieldTable* table : tables) {
    if (const auto found = table->find(name); found != table->end()) return found->second;
  }
  return nullptr;
}

// What two fields say together.
void Settle(Asked* asked) {
  SamplingParams& sampling = asked->sampling();
  const std::optional<int32_t> most =
      asked->max_completion_tokens.has_value() ? asked->max_completion_tokens : asked->max_tokens;
  asked->out.ask.has_max_tokens = most.has_value();
  sampling.max_tokens = most.value_or(0);
  if (asked->best_of.has_value() && *asked->best_of != sampling.choices) {
    asked->read.Refuse("best_of",
                       absl::StrCat("is ", *asked->best_of, " and n is ", sampling.choices,
                                    "; they must be equal, for every choice that is "
                                    "made is returned; leave best_of out"));
  }
}

}  // namespace

absl::StatusOr<OpenAiAsk> ReadOpenAi(OpenAiKind kind, std::string_view body,
                                     const CallLimits& limits) {
  absl::StatusOr<Json> json = ParseStrictJson(body, kJsonDepthMax, kKeysMax);
  if (json.ok() && !json->is_object()) {
    json = absl::InvalidArgumentError(
        absl::StrCat("is ", ShowJson(*json), "; an object {...} is expected"));
  }
  if (!json.ok()) {
    return RefusalStatus(absl::StatusCode::kInvalidArgument,
                         absl::StrCat("the request's body: ", json.status().message()),
                         Because(reason::kMalformedMessage));
  }
  return ReadOpenAiObject(kind, *json, limits);
}

OpenAiAsk ReadOpenAiObject(OpenAiKind kind, const Json& body, const CallLimits& limits) {
  Asked asked;
  asked.read.strict = limits.strict;
  if (kind == OpenAiKind::kChat) asked.out.ask.prompt.kind = PromptKind::kChat;
  const std::vector<const FieldTable*> tables = TablesOf(kind);
  for (const auto& [name, value] : body.items()) {
    const ReadField read = FindField(tables, name);
    if (read == nullptr) {
      asked.read.Unknown(name);
    } else if (!value.is_null()) {  // null is as good as absent, as OpenAI has it
      read(value, name.c_str(), &asked);
    }
  }
  if (kind == OpenAiKind::kDetokenize && body.value("tokens", Json()).is_null()) {
    asked.read.Refuse("tokens", "is missing; give a list of token ids");
  }
  Settle(&asked);
  return std::move(asked.out);
}

}  // namespace tuppence
