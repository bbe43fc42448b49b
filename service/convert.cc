#include "service/convert.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <google/protobuf/unknown_field_set.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tuppence {
namespace {

constexpr double kSecondsPerNs = 1e-9;

std::optional<Role> RoleFromProto(v1::Role role) {
  switch (role) {
    case v1::ROLE_SYSTEM:
      return Role::kSystem;
    case v1::ROLE_USER:
      return Role::kUser;
    case v1::ROLE_ASSISTANT:
      return Role::kAssistant;
    default:
      return std::nullopt;
  }
}

std::vector<ChatMessage> TakeChat(v1::Chat* chat, std::vector<FieldViolation>* violations) {
  constexpr size_t kRoleViolationsMax = 4;
  std::vector<ChatMessage> messages;
  messages.reserve(chat->messages_size());
  size_t unknown = 0;
  for (int i = 0; i < chat->messages_size(); ++i) {
    v1::ChatMessage* message = chat->mutable_messages(i);
    const std::optional<Role> role = RoleFromProto(message->role());
    if (!role.has_value() && unknown++ < kRoleViolationsMax) {
      violations->push_back({absl::StrCat("chat.messages[", i, "].role"),
                             absl::StrCat("is ", static_cast<int>(message->role()),
                                          "; allowed is 1 (system), 2 (user) or 3 (assistant)")});
    }
    messages.push_back({role.value_or(Role::kUser), std::move(*message->mutable_content())});
  }
  return messages;
}

void ToProto(const PositionLogprobs& from, const Tokenizer* tokenizer, v1::PositionLogprobs* to) {
  const auto fill = [tokenizer](const TokenLogprob& token, v1::TokenLogprob* proto) {
    proto->set_token_id(token.token_id);
    proto->set_logprob(token.logprob);
    if (tokenizer != nullptr) {
      const std::string_view bytes = tokenizer->TokenBytes(token.token_id);
      proto->set_token_bytes(bytes.data(), bytes.size());
    }
  };
  fill(from.chosen, to->mutable_chosen());
  for (const TokenLogprob& token : from.top) fill(token, to->add_top());
}

bool HasSomethingToShow(const ChoiceDelta& choice, const Shown& shown) {
  return (shown.text && !choice.text.empty()) ||
         ((shown.token_ids || shown.logprobs) && !choice.token_ids.empty()) ||
         choice.finish_reason != FinishReason::kNone;
}

Prompt TakePrompt(v1::GenerateRequest* request, std::vector<FieldViolation>* violations) {
  Prompt prompt;
  switch (request->prompt_case()) {
    case v1::GenerateRequest::kChat:
      prompt.kind = PromptKind::kChat;
      prompt.chat = TakeChat(request->mutable_chat(), violations);
      break;
    case v1::GenerateRequest::kText:
      prompt.kind = PromptKind::kText;
      prompt.text = std::move(*request->mutable_text());
      break;
    case v1::GenerateRequest::kTokenIds:
      prompt.kind = PromptKind::kTokenIds;
      prompt.token_ids.assign(request->token_ids().ids().begin(), request->token_ids().ids().end());
      break;
    case v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  return prompt;
}

// The parameters with their defaults.
SamplingParams SamplingFromProto(const v1::SamplingParams& sampling,
                                 const v1::OutputOptions& output) {
  SamplingParams params;
  if (sampling.has_temperature()) params.temperature = sampling.temperature();
  if (sampling.has_top_k()) params.top_k = sampling.top_k();
  if (sampling.has_top_p()) params.top_p = sampling.top_p();
  if (sampling.has_min_p()) params.min_p = sampling.min_p();
  if (sampling.has_repetition_penalty()) params.repetition_penalty = sampling.repetition_penalty();
  if (sampling.has_presence_penalty()) params.presence_penalty = sampling.presence_penalty();
  if (sampling.has_frequency_penalty()) params.frequency_penalty = sampling.frequency_penalty();
  params.logit_bias.reserve(sampling.logit_bias_size());
  for (const auto& [id, bias] : sampling.logit_bias()) params.logit_bias.push_back({id, bias});
  // A map has no order of its own; messages and arithmetic get one.
  std::sort(params.logit_bias.begin(), params.logit_bias.end(),
            [](const TokenBias& a, const TokenBias& b) { return a.token_id < b.token_id; });
  if (sampling.has_seed()) params.seed = sampling.seed();
  if (sampling.has_n()) params.choices = sampling.n();
  params.max_tokens = sampling.max_tokens();
  params.min_tokens = sampling.min_tokens();
  params.ignore_eos = sampling.ignore_eos();
  params.stop_strings.assign(sampling.stop().begin(), sampling.stop().end());
  params.stop_ids.assign(sampling.stop_token_ids().begin(), sampling.stop_token_ids().end());
  params.include_stop_string = sampling.include_stop();
  // Asking for alternatives is asking for log-probabilities.
  params.logprobs = output.logprobs() || output.top_logprobs() > 0;
  params.top_logprobs = output.top_logprobs();
  params.prompt_logprobs = output.prompt_logprobs() || output.prompt_top_logprobs() > 0;
  params.prompt_top_logprobs = output.prompt_top_logprobs();
  return params;
}

// None where it leaves the choice to us. A value that is no class becomes a violation.
std::optional<PriorityClass> PriorityClassFromProto(v1::PriorityClass priority_class,
                                                    std::vector<FieldViolation>* violations) {
  switch (priority_class) {
    case v1::PRIORITY_CLASS_UNSPECIFIED:
      return std::nullopt;
    case v1::PRIORITY_CLASS_INTERACTIVE:
      return PriorityClass::kInteractive;
    case v1::PRIORITY_CLASS_STANDARD:
      return PriorityClass::kStandard;
    case v1::PRIORITY_CLASS_BATCH:
      return PriorityClass::kBatch;
    default:
      violations->push_back(
          {"priority_class",
           absl::StrCat("is ", static_cast<int>(priority_class),
                        "; allowed is 1 (interactive), 2 (standard), 3 (batch) or none")});
      return std::nullopt;
  }
}

v1::Role ToProto(Role role) {
  switch (role) {
    case Role::kSystem:
      return v1::ROLE_SYSTEM;
    case Role::kUser:
      return v1::ROLE_USER;
    case Role::kAssistant:
      return v1::ROLE_ASSISTANT;
  }
  return v1::ROLE_UNSPECIFIED;
}

v1::PriorityClass ToProto(PriorityClass priority_class) {
  switch (priority_class) {
    case PriorityClass::kInteractive:
      return v1::PRIORITY_CLASS_INTERACTIVE;
    case PriorityClass::kStandard:
      return v1::PRIORITY_CLASS_STANDARD;
    case PriorityClass::kBatch:
      return v1::PRIORITY_CLASS_BATCH;
  }
  return v1::PRIORITY_CLASS_UNSPECIFIED;
}

// All but max_tokens, which may be absent.
void ToProto(const SamplingParams& params, v1::GenerateRequest* request) {
  v1::SamplingParams* sampling = request->mutable_sampling();
  sampling->set_temperature(params.temperature);
  sampling->set_top_k(params.top_k);
  sampling->set_top_p(params.top_p);
  sampling->set_min_p(params.min_p);
  sampling->set_repetition_penalty(params.repetition_penalty);
  sampling->set_presence_penalty(params.presence_penalty);
  sampling->set_frequency_penalty(params.frequency_penalty);
  for (const TokenBias& bias : params.logit_bias) {
    (*sampling->mutable_logit_bias())[bias.token_id] = bias.bias;
  }
  if (params.seed.has_value()) sampling->set_seed(*params.seed);
  sampling->set_n(params.choices);
  sampling->set_min_tokens(params.min_tokens);
  sampling->set_ignore_eos(params.ignore_eos);
  for (const std::string& stop : params.stop_strings) sampling->add_stop(stop);
  sampling->mutable_stop_token_ids()->Assign(params.stop_ids.begin(), params.stop_ids.end());
  sampling->set_include_stop(params.include_stop_string);
  v1::OutputOptions* output = request->mutable_output();
  output->set_logprobs(params.logprobs);
  output->set_top_logprobs(params.top_logprobs);
  output->set_prompt_logprobs(params.prompt_logprobs);
  output->set_prompt_top_logprobs(params.prompt_top_logprobs);
}

}  // namespace

GenerationAsk AskFromProto(v1::GenerateRequest* request) {
  GenerationAsk ask;
  ask.model = std::move(*request->mutable_model());
  ask.prompt = TakePrompt(request, &ask.violations);
  ask.sampling = SamplingFromProto(request->sampling(), request->output());
  ask.has_max_tokens = request->sampling().has_max_tokens();
  ask.no_text = request->output().no_text();
  ask.priority_class = PriorityClassFromProto(request->priority_class(), &ask.violations);
  if (request->has_max_cost_nanousd()) ask.max_cost_nanousd = request->max_cost_nanousd();
  return ask;
}

v1::GenerateRequest ToProto(const GenerationAsk& ask) {
  v1::GenerateRequest request;
  request.set_model(ask.model);
  switch (ask.prompt.kind) {
    case PromptKind::kChat:
      for (const ChatMessage& from : ask.prompt.chat) {
        v1::ChatMessage* to = request.mutable_chat()->add_messages();
        to->set_role(ToProto(from.role));
        to->set_content(from.content);
      }
      break;
    case PromptKind::kText:
      request.set_text(ask.prompt.text);
      break;
    case PromptKind::kTokenIds:
      request.mutable_token_ids()->mutable_ids()->Assign(ask.prompt.token_ids.begin(),
                                                         ask.prompt.token_ids.end());
      break;
    case PromptKind::kNone:
      break;
  }
  ToProto(ask.sampling, &request);
  if (ask.has_max_tokens) request.mutable_sampling()->set_max_tokens(ask.sampling.max_tokens);
  request.mutable_output()->set_no_text(ask.no_text);
  if (ask.priority_class.has_value()) {
    request.set_priority_class(ToProto(*ask.priority_class));
  }
  if (ask.max_cost_nanousd.has_value()) request.set_max_cost_nanousd(*ask.max_cost_nanousd);
  return request;
}

Prompt TakePrompt(v1::TokenizeRequest* request, std::vector<FieldViolation>* violations) {
  Prompt prompt;
  switch (request->prompt_case()) {
    case v1::TokenizeRequest::kChat:
      prompt.kind = PromptKind::kChat;
      prompt.chat = TakeChat(request->mutable_chat(), violations);
      break;
    case v1::TokenizeRequest::kText:
      prompt.kind = PromptKind::kText;
      prompt.text = std::move(*request->mutable_text());
      break;
    case v1::TokenizeRequest::PROMPT_NOT_SET:
      break;
  }
  return prompt;
}

std::optional<std::string> FindUnknownField(const google::protobuf::Message& message) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  const google::protobuf::UnknownFieldSet& unknown = reflection.GetUnknownFields(message);
  if (!unknown.empty()) return absl::StrCat("field number ", unknown.field(0).number());
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const google::protobuf::FieldDescriptor* field : fields) {
    if (field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) continue;
    const int count = field->is_repeated() ? reflection.FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      const google::protobuf::Message& child =
          field->is_repeated() ? reflection.GetRepeatedMessage(message, field, i)
                               : reflection.GetMessage(message, field);
      if (const auto found = FindUnknownField(child); found.has_value()) {
        return absl::StrCat(field->name(), ".", *found);
      }
    }
  }
  return std::nullopt;
}

bool AppendDelta(const StreamDelta& delta, const Shown& shown, v1::GenerateResponse* response) {
  bool any = false;
  for (const PositionLogprobs& position : delta.prompt_logprobs) {
    ToProto(position, shown.tokenizer, response->add_prompt_logprobs());
    any = true;
  }
  for (size_t i = 0; i < delta.choices.size(); ++i) {
    const ChoiceDelta& from = delta.choices[i];
    if (!HasSomethingToShow(from, shown)) continue;
    v1::Choice* to = response->add_choices();
    to->set_index(static_cast<int32_t>(i));
    if (shown.text) to->set_text(from.text);
    if (shown.token_ids) {
      to->mutable_token_ids()->Add(from.token_ids.begin(), from.token_ids.end());
    }
    if (shown.logprobs) {
      for (const PositionLogprobs& position : from.logprobs) {
        ToProto(position, shown.tokenizer, to->add_logprobs());
      }
    }
    to->set_finish_reason(ToProto(from.finish_reason));
    any = true;
  }
  return any;
}

void ToProto(const Usage& usage, v1::Usage* proto) {
  proto->set_prompt_tokens(usage.prompt_tokens);
  proto->set_cached_tokens(usage.cached_tokens);
  proto->set_completion_tokens(usage.completion_tokens);
  proto->set_queue_seconds(kSecondsPerNs * usage.queue_ns);
  proto->set_prefill_seconds(kSecondsPerNs * usage.prefill_ns);
  proto->set_decode_seconds(kSecondsPerNs * usage.decode_ns);
  proto->set_total_seconds(kSecondsPerNs * usage.total_ns);
  proto->set_time_to_first_token_seconds(kSecondsPerNs * usage.time_to_first_token_ns);
  proto->set_steps(usage.steps);
  proto->set_preemptions(usage.preemptions);
  proto->set_mean_requests_per_step(usage.mean_requests_per_step);
  if (usage.energy_joules > 0) proto->set_energy_joules(usage.energy_joules);
}

void ToProto(const Cost& cost, v1::Cost* proto) {
  proto->set_machine_ns(cost.machine_ns);
  proto->set_shared_ns(cost.shared_ns);
  proto->set_own_ns(cost.own_ns);
  proto->set_prefill_ns(cost.prefill_ns);
  proto->set_decode_ns(cost.decode_ns);
  if (cost.has_rate) proto->set_cost_nanousd(cost.cost_nanousd);
  proto->set_rate_card_id(cost.rate_card_id);
  proto->set_unrecorded(cost.unrecorded);
  proto->set_written_off(cost.written_off);
  proto->set_replay_of(cost.replay_of);
  if (cost.has_reference) {
    proto->set_reference_nanousd(cost.reference_nanousd);
    proto->set_reference_id(cost.reference_id);
  }
}

v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return v1::FINISH_REASON_UNSPECIFIED;
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
    case FinishReason::kDeadline:
      return v1::FINISH_REASON_DEADLINE;
    case FinishReason::kError:
      return v1::FINISH_REASON_ERROR;
    case FinishReason::kDrained:
      return v1::FINISH_REASON_DRAINED;
    case FinishReason::kCostLimit:
      return v1::FINISH_REASON_COST_LIMIT;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

const char* NameOf(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return "none";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kDeadline:
      return "deadline";
    case FinishReason::kError:
      return "error";
    case FinishReason::kDrained:
      return "drained";
    case FinishReason::kCostLimit:
      return "cost_limit";
  }
  return "none";
}

void ToProto(const ServedModel& model, const std::string& version, v1::GetModelResponse* proto) {
  proto->set_name(model.name);
  proto->set_parameters(model.parameters);
  proto->set_context_tokens(model.context_tokens);
  proto->set_vocab(model.vocab);
  proto->set_weight_type(model.weight_type);
  proto->set_kv_type(model.kv_type);
  proto->set_backend(model.backend);
  proto->set_arithmetic_id(model.arithmetic_id);
  proto->set_kernels(model.kernels);
  proto->set_has_tokenizer(model.tokenizer != nullptr);
  if (model.chat_template.has_value()) {
    proto->set_chat_template(std::string(model.chat_template->name()));
  }
  proto->mutable_stop_token_ids()->Add(model.stop_ids.begin(), model.stop_ids.end());
  proto->set_weight_bytes(model.weight_bytes);
  proto->set_kv_bytes(model.kv_bytes);
  proto->set_kv_blocks(model.kv_blocks);
  proto->set_kv_block_tokens(model.kv_block_tokens);
  proto->set_sequences_max(model.sequences_max);
  proto->set_step_tokens_max(model.step_tokens_max);
  proto->set_version(version);
  proto->set_rope_policy(model.rope_policy);
}

}  // namespace tuppence
