// Generation: one answer between its two ends, whichever door it came through: what was asked is
// checked, admitted, tokenised and handed to the engine; what comes is taken from the stream; the
// end is counted and logged. A door reads the request before and writes the answer after
// (generate_call over gRPC, http_answer over HTTP), so that both give one verdict and one bill.
//
// One thread at a time, but for completion_tokens and stream().Cancel.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "scheduler/priority_class.h"
#include "scheduler/token_stream.h"
#include "service/answer_keys.h"
#include "service/call_identity.h"
#include "service/prompt.h"
#include "service/service_counters.h"
#include "service/service_parts.h"
#include "service/tenant_rates.h"

namespace tuppence {

class WatchedCall;

// What a caller asks, as a door has read it.
struct GenerationAsk {
  std::string model;  // "": the one that is served
  Prompt prompt;
  SamplingParams sampling;
  bool has_max_tokens = false;  // otherwise sampling.max_tokens gets its default
  bool no_text = false;         // token ids alone
  std::optional<PriorityClass> priority_class;
  std::optional<int64_t> max_cost_nanousd;
  std::vector<FieldViolation> violations;  // what the door itself found
};

class Generation {
 public:
  // Registers `call`, whose answer this is. Both outlive the generation.
  Generation(const ServiceParts& parts, Method method, WatchedCall* call);

  Generation(const Generation&) = delete;
  Generation& operator=(const Generation&) = delete;

  // The door fills it before Start.
  CallIdentity identity;

  // For a door that has read who asks and not yet what: refuses where every place is taken, so that
  // under overload a refusal costs no reading. A key's answer may be there already, and needs none.
  absl::Status CheckPlace() const;
  // Takes the request on or refuses it. Once it is on, `reader` hears until Close; but an answer
  // that is there already (replays_from_memory) can be taken at once, and nobody hears.
  absl::Status Start(GenerationAsk ask, int64_t deadline_ns, StreamReader* reader);
  // What has gathered; false when nothing has. Requires: started.
  bool Take(StreamDelta* delta);
  // The caller is gone; no effect before Start, and none on a request with an idempotency key,
  // whose caller will ask again.
  void GiveUp();
  // The last word: counts and logs. Once, whether it was started or not; `end` is null where the
  // engine never had the request. After it the registry and the stream know the call no more.
  void Close(const absl::Status& status, const RequestEnd* end);

  // Of an answer that was asked for by its key: of the first request.
  const std::string& answer_id() const {
    return replay_of_.empty() ? identity.request_id : replay_of_;
  }
  bool is_replay() const { return !replay_of_.empty(); }
  bool replays_from_memory() const { return kept_ != nullptr; }
  int64_t created_utc_ns() const { return created_utc_ns_; }
  uint64_t seed() const { return seed_; }
  int32_t prompt_tokens() const { return prompt_tokens_; }
  int64_t completion_tokens() const { return completion_tokens_.load(); }  // any thread

 private:
  absl::Status CheckBeforeWork(const GenerationAsk& ask) const;
  absl::Status AgreeTerms(std::optional<PriorityClass> asked);
  absl::Status Tokenise(GenerationAsk* ask, Request* request) const;
  absl::Status TakeRate(const Request& request);
  void Describe(const Request& request);
  absl::Status ClaimKey(GenerationAsk* ask);
  void ReleaseKey(const absl::Status& status, const RequestEnd* end);

  const ServiceParts& parts_;
  const Method method_;
  WatchedCall* const call_;
  const int64_t received_ns_;
  int64_t deadline_ns_ = 0;
  int64_t weight_milli_ = 1000;
  PriorityClass priority_class_ = PriorityClass::kStandard;
  MinuteLimits minute_;
  int64_t rate_tokens_ = 0;  // taken of this minute's
  uint64_t seed_ = 0;
  int32_t prompt_tokens_ = 0;
  std::shared_ptr<TokenStream> stream_;  // null until the request is complete
  int64_t created_utc_ns_ = 0;
  // Of a request with an idempotency key.
  bool has_key_ = false;  // it is taken, and to be released
  bool key_released_ = false;
  std::string request_sha256_;
  std::string replay_of_;                   // the first request's id
  std::shared_ptr<const KeptAnswer> kept_;  // the answer, where it is in memory
  bool kept_taken_ = false;
  AnswerGatherer gatherer_;
  std::atomic<int64_t> completion_tokens_ = 0;
};

}  // namespace tuppence
