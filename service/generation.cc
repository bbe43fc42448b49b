#include "service/generation.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/admission.h"
#include "scheduler/clock.h"
#include "scheduler/engine.h"
#include "service/bookkeeper.h"
#include "service/call_registry.h"
#include "service/count_call.h"
#include "service/rpc_status.h"
#include "service/submit_request.h"
#include "service/tenants.h"

namespace tuppence {
namespace {

constexpr int32_t kMaxTokensDefaultMost = 1024;

uint64_t DrawSeed() {
  thread_local std::mt19937_64 generator(std::random_device{}());
  return generator();
}

SamplingLimits LimitsOf(const ServedModel& model) {
  SamplingLimits limits;
  limits.vocab = model.vocab;
  limits.context_tokens = model.context_tokens;
  limits.has_tokenizer = model.tokenizer != nullptr;
  return limits;
}

// What is left of the context, at most 1,024; at least 1, so that a prompt which fills the context
// is refused by the one check that has both numbers.
int32_t MaxTokensDefault(int64_t prompt_tokens, const ServedModel& model) {
  const int64_t left = model.context_tokens - prompt_tokens;
  return static_cast<int32_t>(std::clamp<int64_t>(left, 1, kMaxTokensDefaultMost));
}

// What asks for text although there can be none, and biases on ids that stand for nothing.
void CheckAgainstModel(const SamplingParams& params, bool no_text, const ServedModel& model,
                       std::vector<FieldViolation>* violations) {
  if (!no_text && model.tokenizer == nullptr) {
    violations->push_back(
        {"output.no_text", absl::StrCat("is false, and this model is served without a tokenizer (",
                                        model.tokenizer_missing_why,
                                        "); set it, and the answer comes as token ids")});
  }
  if (no_text && model.tokenizer != nullptr && !params.stop_strings.empty()) {
    violations->push_back({"sampling.stop",
                           "looks for text, and output.no_text asks for none; use "
                           "stop_token_ids, or leave no_text out"});
  }
  for (const TokenBias& bias : params.logit_bias) {
    if (bias.token_id < 0 || bias.token_id >= model.vocab || model.IsMapped(bias.token_id)) {
      continue;
    }
    violations->push_back({absl::StrCat("sampling.logit_bias[", bias.token_id, "]"),
                           "only pads the vocabulary and is never chosen; leave it out"});
    return;
  }
}

// The one refusal that has its own reason and numbers: prompt and answer do not fit the context.
absl::Status ContextExceeded(const std::vector<FieldViolation>& violations, int64_t prompt_tokens,
                             int32_t max_tokens, const ServedModel& model) {
  return InvalidFields(
      violations,
      Because(reason::kContextExceeded, {{"prompt_tokens", absl::StrCat(prompt_tokens)},
                                         {"max_tokens", absl::StrCat(max_tokens)},
                                         {"context_tokens", absl::StrCat(model.context_tokens)}}));
}

}  // namespace

Generation::Generation(const ServiceParts& parts, Method method, WatchedCall* call)
    : parts_(parts), method_(method), call_(call), received_ns_(parts.clock->NowNs()) {
  parts_.calls->Add(call_);
}

absl::Status Generation::CheckPlace() const {
  if (!identity.idempotency_key.empty()) return absl::OkStatus();
  return parts_.admission->RefuseWhenFull(identity.tenant);
}

absl::Status Generation::Start(GenerationAsk ask, int64_t deadline_ns, StreamReader* reader) {
  if (parts_.books != nullptr) {
    if (absl::Status status = parts_.books->MayRecord(); !status.ok()) return status;
  }
  deadline_ns_ = deadline_ns;
  if (absl::Status checked = CheckBeforeWork(ask); !checked.ok()) return checked;
  if (absl::Status agreed = AgreeTerms(ask.priority_class); !agreed.ok()) return agreed;
  created_utc_ns_ = parts_.clock->UtcNs();
  if (absl::Status claimed = ClaimKey(&ask); !claimed.ok()) return claimed;
  if (kept_ != nullptr) return absl::OkStatus();
  absl::StatusOr<std::shared_ptr<AdmissionHold>> hold =
      parts_.admission->Reserve(identity.tenant, PromptTokensBound(ask.prompt, *parts_.model));
  if (!hold.ok()) return hold.status();
  Request request;
  request.hold = *std::move(hold);
  if (absl::Status tokenised = Tokenise(&ask, &request); !tokenised.ok()) return tokenised;
  if (absl::Status taken = TakeRate(request); !taken.ok()) return taken;

  request.id = identity.request_id;
  request.caller_id = identity.caller_request_id;
  request.tenant = identity.tenant;
  request.priority_class = priority_class_;
  request.weight_milli = weight_milli_;
  request.received_ns = received_ns_;
  request.deadline_ns = deadline_ns_;
  request.max_cost_nanousd = ask.max_cost_nanousd;
  seed_ = *request.sampling.seed;
  request.replay_of = replay_of_;
  if (has_key_ && !is_replay()) {
    request.key = std::make_shared<const AnswerKey>(
        AnswerKey{identity.idempotency_key, request_sha256_, seed_});
  }
  prompt_tokens_ = static_cast<int32_t>(request.prompt.size());
  stream_ = std::make_shared<TokenStream>(request.sampling.choices, TokenStream::Limits{});
  request.stream = stream_;
  Describe(request);
  stream_->SetReader(reader);
  absl::Status submitted = SubmitRequest(parts_, std::move(request));
  // From here on the reader may be called; only this status is still ours.
  if (!submitted.ok()) stream_->SetReader(nullptr);
  return submitted;
}

// Whether the key was answered before: then the answer is in kept_, or is to be made again as it
// was made first.
absl::Status Generation::ClaimKey(GenerationAsk* ask) {
  if (identity.idempotency_key.empty() || parts_.answer_keys == nullptr) return absl::OkStatus();
  request_sha256_ = RequestSha256(*ask);
  absl::StatusOr<KeyClaim> claim =
      parts_.answer_keys->Claim(identity.tenant, identity.idempotency_key, request_sha256_);
  if (!claim.ok()) return claim.status();
  kept_ = std::move(claim->kept);
  has_key_ = kept_ == nullptr;
  if (kept_ == nullptr && !claim->first.has_value()) return absl::OkStatus();
  const FirstRequest& first = kept_ != nullptr ? kept_->first : *claim->first;
  replay_of_ = first.request_id;
  created_utc_ns_ = first.received_utc_ns;
  seed_ = first.seed;
  if (kept_ != nullptr) prompt_tokens_ = kept_->prompt_tokens;
  ask->sampling.seed = first.seed;
  ask->max_cost_nanousd.reset();  // it costs nothing, and ended by itself
  return absl::OkStatus();
}

// A complete answer is kept for whoever asks again; whatever else it came to leaves the key free.
void Generation::ReleaseKey(const absl::Status& status, const RequestEnd* end) {
  if (!has_key_ || std::exchange(key_released_, true)) return;
  std::shared_ptr<const KeptAnswer> answer;
  if (status.ok() && end != nullptr) {
    answer = gatherer_.Finish({.request_id = answer_id(),
                               .request_sha256 = request_sha256_,
                               .seed = seed_,
                               .received_utc_ns = created_utc_ns_},
                              prompt_tokens_, *end);
  }
  parts_.answer_keys->Release(identity.tenant, identity.idempotency_key, std::move(answer),
                              gatherer_.bytes());
}

// Everything that needs no token count, so that a bad request costs no work and takes no place.
absl::Status Generation::CheckBeforeWork(const GenerationAsk& ask) const {
  const ServedModel& model = *parts_.model;
  if (absl::Status status = CheckModelName(ask.model, model); !status.ok()) return status;
  if (absl::Status status = CheckPromptKind(ask.prompt, model); !status.ok()) return status;
  std::vector<FieldViolation> violations = ask.violations;
  CheckPrompt(ask.prompt, model, parts_.limits, &violations);
  // Whether prompt and answer fit the context is seen once the prompt's tokens are counted.
  SamplingParams assumed = ask.sampling;
  const int32_t longest = model.context_tokens - 1;
  assumed.max_tokens = ask.has_max_tokens ? std::min(assumed.max_tokens, longest) : longest;
  for (FieldViolation& violation :
       CheckSamplingParams(assumed, /*prompt_tokens=*/1, LimitsOf(model))) {
    violations.push_back(std::move(violation));
  }
  CheckAgainstModel(ask.sampling, ask.no_text, model, &violations);
  if (ask.max_cost_nanousd.value_or(1) < 1) {
    violations.push_back(
        {"max_cost_nanousd", absl::StrCat("is ", *ask.max_cost_nanousd,
                                          "; at least 1 is allowed; leave it out for no limit")});
  }
  return violations.empty() ? absl::OkStatus() : InvalidFields(violations);
}

absl::Status Generation::AgreeTerms(std::optional<PriorityClass> asked) {
  priority_class_ = asked.value_or(priority_class_);
  if (parts_.tenants == nullptr) return absl::OkStatus();
  const absl::StatusOr<TenantTerms> terms = parts_.tenants->TermsOf(identity.tenant, asked);
  if (!terms.ok()) return terms.status();
  priority_class_ = terms->priority_class;
  weight_milli_ = terms->weight_milli;
  minute_ = terms->minute;
  return absl::OkStatus();
}

// The prompt's ids and the parameters as they will be used, checked against each other.
absl::Status Generation::Tokenise(GenerationAsk* ask, Request* request) const {
  const ServedModel& model = *parts_.model;
  request->text_output = !ask->no_text;
  request->drop_leading_space = ask->prompt.kind == PromptKind::kChat;
  absl::StatusOr<std::vector<int32_t>> ids = TokenisePrompt(std::move(ask->prompt), model);
  if (!ids.ok()) return ids.status();
  const int64_t prompt_tokens = static_cast<int64_t>(ids->size());
  request->hold->Shrink(prompt_tokens);
  request->prompt = *std::move(ids);
  SamplingParams& sampling = request->sampling = std::move(ask->sampling);
  if (!ask->has_max_tokens) sampling.max_tokens = MaxTokensDefault(prompt_tokens, model);
  const auto violations = CheckSamplingParams(sampling, prompt_tokens, LimitsOf(model));
  if (prompt_tokens + sampling.max_tokens > model.context_tokens) {
    return ContextExceeded(violations, prompt_tokens, sampling.max_tokens, model);
  }
  if (!violations.empty()) return InvalidFields(violations);
  if (!sampling.seed.has_value()) sampling.seed = DrawSeed();
  if (!sampling.ignore_eos) request->stop_ids = model.stop_ids;
  request->stop_ids.insert(request->stop_ids.end(), sampling.stop_ids.begin(),
                           sampling.stop_ids.end());
  return absl::OkStatus();
}

// What the request may need at most; the rest goes back at its end.
absl::Status Generation::TakeRate(const Request& request) {
  if (parts_.rates == nullptr) return absl::OkStatus();
  const int64_t tokens = static_cast<int64_t>(request.prompt.size()) +
                         int64_t{request.sampling.max_tokens} * request.sampling.choices;
  absl::Status taken = parts_.rates->Take(identity.tenant, minute_, tokens, parts_.clock->NowNs());
  if (taken.ok()) rate_tokens_ = tokens;
  return taken;
}

void Generation::Describe(const Request& request) {
  parts_.calls->Describe(call_, {.request_id = identity.request_id,
                                 .caller_request_id = identity.caller_request_id,
                                 .tenant = identity.tenant,
                                 .received_ns = received_ns_,
                                 .prompt_tokens = prompt_tokens_,
                                 .max_tokens = request.sampling.max_tokens});
}

bool Generation::Take(StreamDelta* delta) {
  if (kept_ != nullptr) {
    if (std::exchange(kept_taken_, true)) return false;
    *delta = kept_->all;
    return true;
  }
  if (!stream_->Take(delta)) return false;
  if (has_key_) gatherer_.Add(*delta);
  // Before the caller has the end, for it may send the next request at once.
  if (delta->end.has_value()) ReleaseKey(delta->end->status, &*delta->end);
  for (const ChoiceDelta& choice : delta->choices) {
    completion_tokens_.fetch_add(static_cast<int64_t>(choice.token_ids.size()));
  }
  return true;
}

// Where the time is up too, the engine ends the request for that reason, in the same step: gRPC
// cancels a call at its deadline, and the books should say which it was.
void Generation::GiveUp() {
  constexpr int64_t kTimerSlackNs = 2'000'000;
  if (stream_ == nullptr || has_key_) return;
  if (parts_.clock->NowNs() + kTimerSlackNs < deadline_ns_) stream_->Cancel();
}

void Generation::Close(const absl::Status& status, const RequestEnd* end) {
  if (stream_ != nullptr) stream_->SetReader(nullptr);
  if (rate_tokens_ > 0) {
    const int64_t used =
        end == nullptr ? 0 : end->usage.prompt_tokens + end->usage.completion_tokens;
    parts_.rates->GiveBack(identity.tenant, minute_, rate_tokens_ - used);
  }
  CountCall(parts_, method_, identity, status, received_ns_, end);
  ReleaseKey(status, end);
  // Last: who sees no call left also sees its line in the log and its counts.
  parts_.calls->Remove(call_);
}

}  // namespace tuppence
