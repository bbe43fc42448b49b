// TokenStream: the hand-over engine -> caller of one request. The engine appends tokens and text; the
// reader takes everything that has gathered, in one piece, when it is ready to write.
// Bounded: when a choice has no room the engine leaves its sequence out of the next plans (a slow
// reader pauses only itself), and takes it in again once the reader has taken.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "model/batch.h"
#include "scheduler/request.h"

namespace tuppence {

// Log-probabilities of one position: the token's own and the top ones.
struct PositionLogprobs {
  TokenLogprob chosen;
  std::vector<TokenLogprob> top;
};

// What gathered for one choice since the last Take.
struct ChoiceDelta {
  std::string text;
  std::vector<int32_t> token_ids;
  std::vector<PositionLogprobs> logprobs;  // one for each token id when asked for, else empty
  FinishReason finish_reason = FinishReason::kNone;

  bool empty() const {
    return text.empty() && token_ids.empty() && finish_reason == FinishReason::kNone;
  }
};

struct StreamDelta {
  std::vector<ChoiceDelta> choices;
  std::vector<PositionLogprobs> prompt_logprobs;  // of prompt tokens 1, 2, ...; in order
  std::optional<RequestEnd> end;                  // present once, last

  void Clear();  // keeps capacity
};

// Called by StreamNotifier's thread, never the engine's: there is something to take. At most one call
// is outstanding; after it, the next comes only once Take has been called and more has gathered.
class StreamReader {
 public:
  virtual ~StreamReader() = default;
  virtual void OnReady() = 0;
};

class TokenStream {
 public:
  struct Limits {
    int32_t tokens_max = 256;        // per choice, between two Takes
    int32_t text_bytes_max = 65536;  // per choice
  };

  TokenStream(int32_t choices, Limits limits);

  // Reader's side. Any thread.
  // The reader gets OnReady until it is cleared; clearing waits for a call in progress.
  void SetReader(StreamReader* reader);
  // Swaps what has gathered into *delta (whose old content is discarded, capacity reused). False when
  // nothing was there. Wakes the engine if a choice had run out of room.
  bool Take(StreamDelta* delta);
  // The caller is gone or gave up: the engine ends the request within one step, in every state.
  void Cancel();
  bool cancelled() const;

  // Engine's side. Never blocks on a reader: the lock is held for a swap or an append only.
  bool HasRoom(int32_t choice) const;
  void Append(int32_t choice, int32_t token_id, std::string_view text,
              const SampledToken* logprobs);  // null: none wanted
  void AppendPromptLogprobs(const SampledToken& position);
  void FinishChoice(int32_t choice, std::string_view text, FinishReason reason);
  void End(RequestEnd end);

 private:
  friend class StreamNotifier;
  // (members by the implementation)
};

}  // namespace tuppence
