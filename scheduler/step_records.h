// StepRecords: the hand-over engine -> books. The engine writes one record at the end of each
// Step: what the step was, who ended, which period closed. The books' thread (service/bookkeeper)
// stores rows and periods, then sends the closing messages, and observes histograms.
//
// A ring of fixed size, one writer, one reader, no lock. When it is full the engine takes no new
// requests and gathers on in the record at hand, so that a slow disk holds up no step; what gathers
// is bounded by what the requests that run already may still produce.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <semaphore>
#include <string>
#include <vector>

#include "scheduler/period.h"
#include "scheduler/request.h"
#include "scheduler/step_cost_model.h"

namespace tuppence {

// The row of a request that ended, whatever its outcome.
struct RequestRow {
  std::string id;
  std::string caller_id;  // the caller's x-request-id, "" without
  std::string tenant;
  PriorityClass priority_class = PriorityClass::kStandard;
  int64_t received_utc_ns = 0;
  int64_t ended_utc_ns = 0;
  int64_t ended_ns = 0;  // monotonic
  FinishReason reason = FinishReason::kNone;
  absl::StatusCode code = absl::StatusCode::kOk;
  Usage usage;
  int32_t max_tokens = 0;  // asked for, of each choice; for metrics, not stored
  Cost cost;
  bool written_off = false;     // our own fault, or made again: booked, priced at nothing
  bool unrecorded = false;      // ended while no row could be stored: it never is
  int64_t unrecorded_ns = 0;    // of cost.machine_ns, booked to the unrecorded account
  double kv_block_seconds = 0;  // residency, unpriced
  std::shared_ptr<const AnswerKey> key = nullptr;  // null: it has none
};

// A row, and the call that waits for it: End(end) once the row is durable.
struct EndedRequest {
  RequestRow row;
  RequestEnd end;
  std::shared_ptr<TokenStream> stream;
  int64_t deadline_ns = kNever;  // monotonic; the caller's
};

// One step that did work. step_ns 0: the record holds no step.
struct StepSummary {
  int64_t step_ns = 0;
  int64_t modelled_ns = 0;            // by the step-cost model as it was
  int64_t launch_and_weights_ns = 0;  // of step_ns, the shared part
  int32_t prefill_tokens = 0;         // recomputed ones not among them
  int32_t decode_tokens = 0;
  int32_t recomputed_tokens = 0;
  int32_t requests = 0;
  int32_t sequences = 0;
  StepCostCoefficients coefficients = {};  // that divided it
};

struct StepRecord {
  std::vector<StepSummary> steps;               // one as a rule, more while the ring was full
  std::vector<int64_t> time_to_first_token_ns;  // of each request whose first token came
  std::vector<int64_t> inter_token_ns;          // one for each later token of a choice
  std::vector<EndedRequest> ended;
  std::vector<Period> periods;  // none as a rule

  bool empty() const { return steps.empty() && ended.empty() && periods.empty(); }
  void Clear();  // keeps capacity
};

class StepRecords {
 public:
  // records: of the ring. sequences_max: so many tokens a step delivers at most; reserved, so that
  // a step allocates nothing.
  StepRecords(int32_t records, int32_t sequences_max);

  // Called by the books' thread in Release when the engine found the ring full before. Set once,
  // before either side begins; what it touches outlives the books' thread.
  void SetOnRoom(std::function<void()> on_room) { on_room_ = std::move(on_room); }

  // Engine's side.
  // The record at hand. Stays the same, with what it holds, until Publish succeeds.
  StepRecord* current() { return &slots_[write_ % slots_.size()]; }
  // Hands the record over; current() is then another, empty one. False, and nothing changes, when
  // the ring is full.
  bool Publish();
  // Whether Publish would succeed. Where not, the next Release calls on_room.
  bool HasRoom();
  // Nothing more will come. The record at hand is not handed over.
  void Close();

  // Books' side.
  // The oldest record, or null when there is none. Valid until Release.
  StepRecord* Front();
  // Gives the oldest record back to the engine, emptied. Requires: Front() is not null.
  void Release();
  // Waits until there is a record, or Close was called, or the time is up.
  void Wait(int64_t timeout_ns);
  // Close was called. Records may still be there: the books are done when Front() is null after it.
  bool closed() const { return closed_.load(std::memory_order_acquire); }

  // Any thread: records handed over and not yet released; one less than the ring holds at most.
  int64_t waiting() const;

 private:
  void WakeReader();

  std::vector<StepRecord> slots_;
  std::function<void()> on_room_;
  uint64_t write_ = 0;  // the engine's own copy
  uint64_t read_ = 0;   // the books' own copy
  alignas(64) std::atomic<uint64_t> published_ = 0;
  alignas(64) std::atomic<uint64_t> released_ = 0;
  std::atomic<bool> closed_ = false;
  std::atomic<bool> writer_waits_ = false;   // the engine found the ring full
  std::atomic<bool> reader_sleeps_ = false;  // whoever clears it owes the semaphore one release
  std::counting_semaphore<> wake_{0};
};

}  // namespace tuppence
