// Bookkeeper: the other end of StepRecords. On the books' thread it shows each record to the
// observer, makes the rows of ended requests and the closed periods durable, a group at a time, and
// only then sends the closing messages. Text is never held back for it. Without a store the closing
// messages go at once. Made by serve.
//
// While the store cannot be written it tries again every second, with all that waits:
//   refuse  new requests are turned away (MayRecord); ended ones wait for their rows
//   serve   answers go on, marked `unrecorded`; the engine books their time to that account
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "scheduler/clock.h"
#include "scheduler/step_records.h"
#include "scheduler/token_stream.h"
#include "service/budgets.h"
#include "service/record_observer.h"
#include "service/store_state.h"

namespace tuppence {

class UsageStore;

// What a reference price asks for some tokens.
struct ReferenceQuote {
  int64_t nanousd = 0;
  std::string id;
};

enum class WhenUnrecordable : uint8_t { kRefuse, kServe };

struct BookkeeperOptions {
  WhenUnrecordable when_unrecordable = WhenUnrecordable::kRefuse;
  // EngineOptions::unrecorded. Set here, with kServe. Outlives both.
  std::atomic<bool>* unrecorded = nullptr;
  // Of each ended request; on the books' thread. Empty: no reference price is configured.
  std::function<std::optional<ReferenceQuote>(const Usage&)> reference = nullptr;
  Budgets* budgets = nullptr;  // null: none are kept. Outlives this
  int64_t retry_ns = 1'000'000'000;
  int64_t give_up_ns = 10'000'000'000;  // an end in good order waits so long for the store
};

class Bookkeeper {
 public:
  // store may be null; all but it are not, and all outlive this. Starts at once.
  Bookkeeper(BookkeeperOptions options, UsageStore* store, StepRecords* records,
             StreamNotifier* notifier, RecordObserver* observer, const Clock* clock);
  // Waits until the engine has closed the records and the last one is done, or the store has had
  // its time.
  ~Bookkeeper();

  // Whether a new request can be recorded, or need not be; UNAVAILABLE with a Refusal otherwise.
  // Any thread.
  absl::Status MayRecord() const;
  // Waits until everybody whose end is with the books has been told. Those who were not after the
  // options' give_up_ns are told that their answer could not be recorded. Any thread.
  void FinishTelling();
  // Any thread. Requires: there is a store.
  StoreState Snapshot() const;

 private:
  void Run();
  void Gather();
  void Take(StepRecord* record);
  void Commit(int64_t now_ns);
  void NoteCommit(int64_t commit_ns, int64_t now_ns);
  void NoteFailure(const absl::Status& status, int64_t now_ns);
  // While the store cannot be written: those who cannot or need not wait for it.
  void TellWhoMustNotWait(int64_t now_ns);
  void Tell(EndedRequest* ended);
  void Post() { notifier_->Post(&ready_); }
  void PostToBudget(const RequestRow& row, bool stored);
  bool NothingWaits() const { return waiting_.empty() && periods_.empty() && holds_.empty(); }
  bool unrecordable() const { return unrecordable_.load(std::memory_order_acquire); }

  const BookkeeperOptions options_;
  UsageStore* const store_;
  StepRecords* const records_;
  StreamNotifier* const notifier_;
  RecordObserver* const observer_;
  const Clock* const clock_;

  // The books' thread's.
  std::vector<EndedRequest> waiting_;  // rows not durable yet; without a stream: told all the same
  std::vector<Period> periods_;
  HoldChanges holds_;             // not in the store yet
  int64_t booked_until_ns_ = -1;  // the last period's end; -1: there was none
  int64_t unrecordable_since_ns_ = 0;
  int64_t next_try_ns_ = 0;
  std::vector<std::shared_ptr<TokenStream>> ready_;

  std::atomic<bool> unrecordable_ = false;  // the last commit failed
  std::atomic<bool> leaving_ = false;       // nobody waits for the store any more
  std::atomic<int64_t> untold_ = 0;         // taken from the records and not told
  mutable absl::Mutex mutex_;
  StoreState state_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace tuppence
