#include "scheduler/step_records.h"

#include <chrono>
#include <utility>

#include "model/check.h"

namespace tuppence {
namespace {

// Steps, and requests that end in one step, that a record holds without growing.
constexpr size_t kStepsUsual = 8;
constexpr size_t kEndedUsual = 8;

}  // namespace

void StepRecord::Clear() {
  steps.clear();
  time_to_first_token_ns.clear();
  inter_token_ns.clear();
  ended.clear();
  periods.clear();
}

// One slot is always the engine's, so that there is a record at hand when all others are full.
StepRecords::StepRecords(int32_t records, int32_t sequences_max) : slots_(records + 1) {
  CHECK_GT(records, 0);
  for (StepRecord& record : slots_) {
    record.steps.reserve(kStepsUsual);
    record.time_to_first_token_ns.reserve(sequences_max);
    record.inter_token_ns.reserve(sequences_max);
    record.ended.reserve(kEndedUsual);
  }
}

bool StepRecords::HasRoom() {
  const uint64_t records_max = slots_.size() - 1;
  if (write_ - released_.load(std::memory_order_acquire) < records_max) return true;
  // Told first and looked at again, or a Release in between would wake nobody.
  writer_waits_.store(true, std::memory_order_seq_cst);
  if (write_ - released_.load(std::memory_order_seq_cst) >= records_max) return false;
  writer_waits_.store(false, std::memory_order_relaxed);
  return true;
}

bool StepRecords::Publish() {
  if (!HasRoom()) return false;
  published_.store(++write_, std::memory_order_seq_cst);
  WakeReader();
  return true;
}

void StepRecords::Close() {
  closed_.store(true, std::memory_order_seq_cst);
  WakeReader();
}

StepRecord* StepRecords::Front() {
  if (read_ == published_.load(std::memory_order_acquire)) return nullptr;
  return &slots_[read_ % slots_.size()];
}

void StepRecords::Release() {
  CHECK_NE(read_, published_.load(std::memory_order_relaxed));
  slots_[read_ % slots_.size()].Clear();  // streams are let go on this thread, not the engine's
  released_.store(++read_, std::memory_order_seq_cst);
  if (writer_waits_.exchange(false, std::memory_order_seq_cst) && on_room_) on_room_();
}

void StepRecords::WakeReader() {
  if (reader_sleeps_.exchange(false, std::memory_order_seq_cst)) wake_.release();
}

void StepRecords::Wait(int64_t timeout_ns) {
  reader_sleeps_.store(true, std::memory_order_seq_cst);
  const bool nothing = read_ == published_.load(std::memory_order_seq_cst) &&
                       !closed_.load(std::memory_order_seq_cst);
  if (nothing && timeout_ns > 0 && wake_.try_acquire_for(std::chrono::nanoseconds(timeout_ns))) {
    return;
  }
  // Awake by itself. If the engine was quicker, its release is on the way and must not stay.
  if (!reader_sleeps_.exchange(false, std::memory_order_seq_cst)) wake_.acquire();
}

int64_t StepRecords::waiting() const {
  // Released first: it never overtakes what was published before.
  const uint64_t released = released_.load(std::memory_order_acquire);
  return static_cast<int64_t>(published_.load(std::memory_order_acquire) - released);
}

}  // namespace tuppence
