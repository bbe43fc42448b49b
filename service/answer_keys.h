// AnswerKeys: answers that callers may ask for again by a key of their own, so that a retry after a
// lost connection is neither computed nor billed twice. Which request answered a key is in the
// usage store (key_store) for as long as the request's row; the answer itself is on no disk: the
// latest are kept in memory, bounded, and one that is there no more is made again with the first
// one's seed, which gives the same tokens where arithmetic is repeatable, and booked at no price.
// Without a store a key lasts as long as its answer is in memory. Made by serve, used by
// Generation. Any thread.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "scheduler/token_stream.h"
#include "service/key_store.h"
#include "service/served_model.h"

namespace tuppence {

struct GenerationAsk;

// A whole answer, as it was given.
struct KeptAnswer {
  FirstRequest first;
  int32_t prompt_tokens = 0;
  StreamDelta all;  // its end too, told as a replay's: the first request bears the cost
};

// Gathers an answer while it is delivered, until it is too large to keep.
class AnswerGatherer {
 public:
  void Add(const StreamDelta& delta);
  // Null where it is too large or has no good end.
  std::shared_ptr<const KeptAnswer> Finish(const FirstRequest& first, int32_t prompt_tokens,
                                           const RequestEnd& end);
  size_t bytes() const { return bytes_; }

 private:
  StreamDelta all_;
  size_t bytes_ = 0;  // about
};

// What a key stands for when a request comes with it.
struct KeyClaim {
  std::shared_ptr<const KeptAnswer> kept;  // its answer is there: nothing is to be done or released
  std::optional<FirstRequest> first;       // otherwise: it was answered, and is to be made again
};

class AnswerKeys {
 public:
  // model outlives this. usage_store: its file, "" without one.
  AnswerKeys(const ServedModel* model, const std::string& usage_store,
             size_t bytes_max = size_t{64} << 20);

  // Takes the key for the request, until Keep or Release. ABORTED while another request has it,
  // with a retry time. ALREADY_EXISTS where it stands for another request, or for an answer that
  // cannot be made again.
  absl::StatusOr<KeyClaim> Claim(const std::string& tenant, const std::string& name,
                                 const std::string& request_sha256);
  // The request is over; `answer` null: without an answer that could be kept.
  void Release(const std::string& tenant, const std::string& name,
               std::shared_ptr<const KeptAnswer> answer, size_t bytes);

 private:
  using Name = std::pair<std::string, std::string>;  // tenant and key
  struct Entry {
    std::shared_ptr<const KeptAnswer> answer;
    size_t bytes = 0;
    std::list<Name>::iterator age;
  };

  absl::Status CheckRepeatable(const FirstRequest& first) const;

  const ServedModel* const model_;
  const size_t bytes_max_;
  const std::unique_ptr<KeyReader> books_;  // null: there are none
  absl::Mutex mutex_;
  absl::flat_hash_set<Name> in_progress_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<Name, Entry> kept_ ABSL_GUARDED_BY(mutex_);
  std::list<Name> by_age_ ABSL_GUARDED_BY(mutex_);  // oldest first
  size_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

// Of what is asked, however it is written down: equal through both doors.
std::string RequestSha256(const GenerationAsk& ask);

}  // namespace tuppence
