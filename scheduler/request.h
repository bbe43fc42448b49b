// Request: what a caller wants, ready to be scheduled; and Usage and Cost, what came of it.
// Made by service/generation after validation and tokenising, consumed by the engine.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "model/sampling_params.h"
#include "scheduler/prefix_key.h"
#include "scheduler/priority_class.h"

namespace tuppence {

class TokenStream;
class AdmissionHold;

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

// By what its caller may ask for an answer again (service/answer_keys); kept with its row.
struct AnswerKey {
  std::string name;            // the tenant's own
  std::string request_sha256;  // of what was asked
  uint64_t seed = 0;           // it was answered with
};

struct Request {
  std::string id;         // made by the server, unique
  std::string caller_id;  // the caller's x-request-id, "" without
  std::string tenant;     // "unknown" where no identity is configured
  PriorityClass priority_class = PriorityClass::kStandard;
  int64_t weight_milli = 1000;  // the tenant's share, in thousandths
  std::vector<int32_t> prompt;
  std::vector<PrefixKey> prefix_keys;  // made by Engine::Submit
  SamplingParams sampling;             // seed always set here
  // Stop ids of the model (config, generation_config, template), empty with ignore_eos; and the
  // caller's own. Both end the answer; both are masked below min_tokens.
  std::vector<int32_t> stop_ids;
  bool text_output = true;  // false: token ids only, no decoder runs
  bool drop_leading_space =
      true;                 // a chat answer's first piece loses its space; a continuation's not
  int64_t received_ns = 0;  // monotonic
  int64_t deadline_ns = kNever;             // monotonic
  std::optional<int64_t> max_cost_nanousd;  // it ends before a step that would cost more than this
  std::shared_ptr<const AnswerKey> key;     // null: it has none
  // The request whose answer this makes again, "" as a rule: its time is booked, at no price.
  std::string replay_of = {};
  std::shared_ptr<TokenStream> stream;
  std::shared_ptr<AdmissionHold>
      hold;  // the slot and prompt tokens reserved; given back at the end
};

enum class FinishReason : uint8_t {
  kNone,       // still running
  kStop,       // a stop id or stop string
  kLength,     // max_tokens
  kCancelled,  // the caller went away or asked
  kDeadline,   // time was up
  kError,      // our fault: see the status
  kDrained,    // the server stopped before the answer was complete
  kCostLimit,  // more would have cost more than the caller's limit
};

// Counts and times of one request, its choices together.
struct Usage {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t queue_ns = 0;    // received to first scheduled
  int64_t prefill_ns = 0;  // first scheduled to first token
  int64_t decode_ns = 0;   // first token to end
  int64_t total_ns = 0;
  int64_t time_to_first_token_ns = 0;  // received to first token on the host
  int32_t steps = 0;
  int32_t preemptions = 0;
  double mean_requests_per_step = 0;  // how many requests shared its steps, itself included
  double energy_joules = 0;           // its part of what the device took; 0: cannot be read
};

// Machine time of one request, and money where a rate is known.
struct Cost {
  int64_t machine_ns = 0;  // = shared_ns + own_ns = prefill_ns + decode_ns
  int64_t shared_ns = 0;   // its part of launch and weight reading
  int64_t own_ns = 0;      // its own arithmetic and KV reading
  int64_t prefill_ns = 0;
  int64_t decode_ns = 0;
  bool has_rate = false;
  int64_t cost_nanousd = 0;  // machine_ns at the rate card, rounded to nearest
  std::string rate_card_id;  // "" when no rate is known
  bool unrecorded = false;   // told while the usage store could not be written
  bool written_off = false;  // by our own fault, or made again: it costs nothing
  // What the reference price would have asked for the same tokens.
  bool has_reference = false;
  int64_t reference_nanousd = 0;
  std::string reference_id = {};
  std::string replay_of = {};  // the request that bears the cost of this answer; "": itself
};

// The end of a request: the last thing a stream carries.
struct RequestEnd {
  absl::Status status;                       // OK for stop, length and cost limit
  std::vector<FinishReason> finish_reasons;  // one for each choice
  Usage usage;
  Cost cost;
};

}  // namespace tuppence
