#include "service/answer_keys.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include "absl/strings/str_cat.h"
#include "model/check.h"
#include "model/sha256.h"
#include "scheduler/refusal.h"
#include "service/convert.h"
#include "service/generation.h"
#include "service/rpc_status.h"

namespace tuppence {
namespace {

constexpr size_t kAnswerBytesMax = size_t{1} << 20;  // of one that is kept
constexpr size_t kEntryBytes = 512;                  // beside the answer's text
constexpr int64_t kRetryAfterMs = 1000;

size_t BytesOf(const std::vector<PositionLogprobs>& positions) {
  size_t bytes = 0;
  for (const PositionLogprobs& position : positions) {
    bytes += sizeof(PositionLogprobs) + position.top.size() * sizeof(TokenLogprob);
  }
  return bytes;
}

template <typename Value>
void Append(const std::vector<Value>& from, std::vector<Value>* to) {
  to->insert(to->end(), from.begin(), from.end());
}

}  // namespace

void AnswerGatherer::Add(const StreamDelta& delta) {
  for (const ChoiceDelta& from : delta.choices) {
    bytes_ += from.text.size() + from.token_ids.size() * sizeof(int32_t) + BytesOf(from.logprobs);
  }
  bytes_ += BytesOf(delta.prompt_logprobs);
  if (bytes_ > kAnswerBytesMax) {
    all_ = {};
    return;
  }
  Append(delta.prompt_logprobs, &all_.prompt_logprobs);
  all_.choices.resize(std::max(all_.choices.size(), delta.choices.size()));
  for (size_t i = 0; i < delta.choices.size(); ++i) {
    const ChoiceDelta& from = delta.choices[i];
    ChoiceDelta& to = all_.choices[i];
    to.text += from.text;
    Append(from.token_ids, &to.token_ids);
    Append(from.logprobs, &to.logprobs);
    if (from.finish_reason != FinishReason::kNone) to.finish_reason = from.finish_reason;
  }
}

std::shared_ptr<const KeptAnswer> AnswerGatherer::Finish(const FirstRequest& first,
                                                         int32_t prompt_tokens,
                                                         const RequestEnd& end) {
  if (bytes_ > kAnswerBytesMax || !end.status.ok()) return nullptr;
  auto answer = std::make_shared<KeptAnswer>();
  answer->first = first;
  answer->prompt_tokens = prompt_tokens;
  answer->all = std::move(all_);
  RequestEnd& told = answer->all.end.emplace(end);
  told.cost = Cost();
  told.cost.has_rate = end.cost.has_rate;
  told.cost.rate_card_id = end.cost.rate_card_id;
  told.cost.replay_of = first.request_id;
  return answer;
}

AnswerKeys::AnswerKeys(const ServedModel* model, const std::string& usage_store, size_t bytes_max)
    : model_(model),
      bytes_max_(bytes_max),
      books_(usage_store.empty() ? nullptr : std::make_unique<KeyReader>(usage_store)) {}

absl::StatusOr<KeyClaim> AnswerKeys::Claim(const std::string& tenant, const std::string& name,
                                           const std::string& request_sha256) {
  Name key(tenant, name);
  {
    absl::MutexLock lock(&mutex_);
    if (const auto kept = kept_.find(key); kept != kept_.end()) {
      if (kept->second.answer->first.request_sha256 != request_sha256) return KeyReused();
      return KeyClaim{.kept = kept->second.answer, .first = std::nullopt};
    }
    if (!in_progress_.insert(key).second) {
      Refusal refusal = Because(reason::kKeyInProgress);
      refusal.retry_after_ms = kRetryAfterMs;
      return RefusalStatus(absl::StatusCode::kAborted,
                           "a request with this idempotency key is still being answered; ask "
                           "again in a moment, and the answer is there",
                           refusal);
    }
  }
  if (books_ == nullptr) return KeyClaim();
  absl::StatusOr<std::optional<FirstRequest>> first = books_->Find(tenant, name);
  absl::Status status = first.status();
  if (status.ok() && first->has_value()) {
    status = (*first)->request_sha256 == request_sha256 ? CheckRepeatable(**first) : KeyReused();
  }
  if (!status.ok()) {
    Release(tenant, name, nullptr, 0);
    return status;
  }
  return KeyClaim{.kept = nullptr, .first = *std::move(first)};
}

// Whether the same request and seed give the same answer.
absl::Status AnswerKeys::CheckRepeatable(const FirstRequest& first) const {
  std::string why;
  if (first.outcome == "cost_limit") {
    why = "it ended at its max_cost_nanousd, which depends on the clock";
  } else if (first.model != model_->name || first.arithmetic_id != model_->arithmetic_id) {
    why = absl::StrCat("it was of ", first.model, " (", first.arithmetic_id,
                       "), and what is served now is ", model_->name, " (", model_->arithmetic_id,
                       ")");
  } else if (!model_->repeatable) {
    why = "this service runs with --deterministic off, so that another answer might come";
  }
  if (why.empty()) return absl::OkStatus();
  return RefusalStatus(
      absl::StatusCode::kAlreadyExists,
      absl::StrCat("this idempotency key was answered, as request ", first.request_id,
                   "; the answer is not in memory any more and cannot be made again: ", why,
                   "; send another key for a new answer"),
      Because(reason::kKeyAnswerGone));
}

void AnswerKeys::Release(const std::string& tenant, const std::string& name,
                         std::shared_ptr<const KeptAnswer> answer, size_t bytes) {
  Name key(tenant, name);
  absl::MutexLock lock(&mutex_);
  in_progress_.erase(key);
  if (answer == nullptr) return;
  bytes += kEntryBytes;
  by_age_.push_back(key);
  kept_[std::move(key)] = {
      .answer = std::move(answer), .bytes = bytes, .age = std::prev(by_age_.end())};
  bytes_ += bytes;
  while (bytes_ > bytes_max_) {
    const auto oldest = kept_.find(by_age_.front());
    bytes_ -= oldest->second.bytes;
    kept_.erase(oldest);
    by_age_.pop_front();
  }
}

std::string RequestSha256(const GenerationAsk& ask) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);  // a map's order is no difference
    CHECK(ToProto(ask).SerializeToCodedStream(&coded));
  }
  Sha256 hash;
  hash.Add(bytes);
  return hash.Finish();
}

}  // namespace tuppence
