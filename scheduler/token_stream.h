// TokenStream: the hand-over engine -> caller of one request. The engine appends tokens and text;
// the reader takes everything that has gathered, in one piece, when it is ready to write. Bounded:
// when a choice has no room the engine leaves its sequence out of the next plans (a slow reader
// pauses only itself), and takes it in again once the reader has taken. StreamNotifier, below, is
// the one thread that tells readers there is something to take.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "model/batch.h"
#include "scheduler/mutex.h"
#include "scheduler/request.h"

namespace tuppence {

class Inbox;
class StreamNotifier;

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

// Called by StreamNotifier's thread, never the engine's: there is something to take. At most one
// call is outstanding; after it, the next comes only once Take has been called and more has
// gathered.
class StreamReader {
 public:
  virtual ~StreamReader() = default;
  virtual void OnReady() = 0;
};

class TokenStream : public std::enable_shared_from_this<TokenStream> {
 public:
  struct Limits {
    int32_t tokens_max = 256;        // per choice, between two Takes
    int32_t text_bytes_max = 65536;  // per choice
  };

  // What the engine learns from an Append.
  struct Appended {
    bool has_room = true;  // for another token of that choice
    bool notice = false;   // as from ClaimNotice
  };

  TokenStream(int32_t choices, Limits limits);

  // Reader's side. Any thread.
  // The reader gets OnReady until it is cleared; clearing waits for a call in progress (except from
  // inside that very call). A reader set late hears of what has gathered before.
  void SetReader(StreamReader* reader);
  // Swaps what has gathered into *delta (whose old content is discarded, capacity reused). False
  // when nothing was there. Wakes the engine if a choice had run out of room.
  bool Take(StreamDelta* delta);
  // The caller is gone or gave up: the engine ends the request within one step, in every state.
  void Cancel();
  const Limits& limits() const { return limits_; }
  bool cancelled() const { return cancelled_.load(std::memory_order_acquire); }

  // Engine's side. Never blocks on a reader: the lock is held for a swap or an append only.
  // Where wake-ups and OnReady go, from Submit to End. Both outlive that span.
  void Attach(Inbox* inbox, std::shared_ptr<StreamNotifier> notifier);
  bool HasRoom(int32_t choice) const;
  Appended Append(int32_t choice, int32_t token_id, std::string_view text,
                  const SampledToken* logprobs);  // null: none wanted
  void AppendPromptLogprobs(int32_t token_id, const SampledToken& position);
  void FinishChoice(int32_t choice, std::string_view text, FinishReason reason);
  void End(RequestEnd end);
  // True when something gathered that the reader has not been told of; the caller then hands the
  // stream to StreamNotifier::Post. At most once between two Takes.
  bool ClaimNotice();

  // Notifier's side: one OnReady call, if there is a reader.
  void Notify();

 private:
  bool HasRoomLocked(int32_t choice) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  bool EmptyLocked() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);

  const Limits limits_;
  std::atomic<bool> cancelled_ = false;
  mutable Mutex mutex_;
  StreamDelta gathered_ ABSL_GUARDED_BY(mutex_);
  bool was_full_ ABSL_GUARDED_BY(mutex_) = false;  // some Append left a choice without room
  bool posted_ ABSL_GUARDED_BY(mutex_) = false;    // handed to the notifier since the last Take ...
  bool told_ ABSL_GUARDED_BY(mutex_) = false;      // ... and the reader was called
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  StreamReader* reader_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool calling_ ABSL_GUARDED_BY(mutex_) = false;    // an OnReady call is in progress
  std::thread::id caller_ ABSL_GUARDED_BY(mutex_);  // on this thread
  Inbox* inbox_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::shared_ptr<StreamNotifier> notifier_ ABSL_GUARDED_BY(mutex_);
};

// The thread that calls readers, so that neither the engine nor a reader waits for the other. The
// engine posts the ready streams of a step in one go. Without Start (tests) NotifyAll makes the
// calls.
class StreamNotifier {
 public:
  StreamNotifier() = default;
  ~StreamNotifier();

  void Start();
  // Makes the calls that are still posted, on the calling thread where none was started, and ends
  // the thread. Idempotent. What is posted holds the notifier, so nothing else would free either.
  void Stop();
  // Any thread. Moves the streams out of *ready and leaves it empty.
  void Post(std::vector<std::shared_ptr<TokenStream>>* ready);
  // Makes the posted calls on the calling thread.
  void NotifyAll();

 private:
  void Run();

  Mutex mutex_;
  std::vector<std::shared_ptr<TokenStream>> posted_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace tuppence
