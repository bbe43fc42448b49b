#include "service/bookkeeper.h"

#include <pthread.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/refusal.h"
#include "service/rpc_status.h"
#include "service/usage_store.h"

namespace tuppence {
namespace {

constexpr int64_t kWaitNs = 500'000'000;
constexpr int64_t kWaitUnrecordableNs = 20'000'000;  // deadlines are looked at so often
constexpr auto kLookEvery = std::chrono::milliseconds(1);

}  // namespace

Bookkeeper::Bookkeeper(BookkeeperOptions options, UsageStore* store, StepRecords* records,
                       StreamNotifier* notifier, RecordObserver* observer, const Clock* clock)
    : options_(std::move(options)),
      store_(store),
      records_(records),
      notifier_(notifier),
      observer_(observer),
      clock_(clock) {
  thread_ = std::thread([this] { Run(); });
}

Bookkeeper::~Bookkeeper() { thread_.join(); }

void Bookkeeper::Run() {
  pthread_setname_np(pthread_self(), "books");
  int64_t give_up_at_ns = kNever;
  while (true) {
    // Read first: what was published before Close is then seen below.
    const bool closed = records_->closed();
    Gather();
    const int64_t now_ns = clock_->NowNs();
    const bool due = unrecordable() ? now_ns >= next_try_ns_ : !NothingWaits();
    if (store_ != nullptr && due) Commit(now_ns);
    if (unrecordable()) TellWhoMustNotWait(now_ns);
    if (closed) {
      if (give_up_at_ns == kNever) give_up_at_ns = now_ns + options_.give_up_ns;
      if (NothingWaits() || leaving_ || now_ns >= give_up_at_ns) break;
    }
    if (store_ != nullptr) store_->Tidy(now_ns, clock_->UtcNs());
    if (closed) {
      std::this_thread::sleep_for(kLookEvery);  // Wait would not: there is nothing to wait for
    } else {
      records_->Wait(unrecordable() ? kWaitUnrecordableNs : kWaitNs);
    }
  }
  if (store_ == nullptr) return;
  if (!NothingWaits()) {
    spdlog::error(
        "the usage store could not be written to the end: {} requests and {} periods are "
        "not in it; their time will show as unaccounted",
        waiting_.size(), periods_.size());
    leaving_ = true;
    TellWhoMustNotWait(clock_->NowNs());
  } else if (booked_until_ns_ >= 0) {
    const absl::Status ended = store_->EndRun(booked_until_ns_);
    if (!ended.ok()) spdlog::error("{}", std::string(ended.message()));
  }
}

// What the engine has published by now; not what it adds meanwhile, or a commit might never come.
void Bookkeeper::Gather() {
  for (int64_t left = records_->waiting(); left > 0; --left) {
    StepRecord* record = records_->Front();
    Take(record);
    records_->Release();
  }
  // Behind the rows: whoever has one among them made its hold before.
  if (options_.budgets != nullptr && store_ != nullptr) options_.budgets->TakeChanges(&holds_);
  Post();
}

void Bookkeeper::Take(StepRecord* record) {
  untold_.fetch_add(static_cast<int64_t>(record->ended.size()), std::memory_order_acq_rel);
  for (EndedRequest& ended : record->ended) {
    Cost& cost = ended.row.cost;
    cost.written_off = ended.row.written_off;
    cost.unrecorded = ended.row.unrecorded;
    if (options_.reference) {
      if (std::optional<ReferenceQuote> quote = options_.reference(ended.row.usage)) {
        cost.has_reference = true;
        cost.reference_nanousd = quote->nanousd;
        cost.reference_id = std::move(quote->id);
      }
    }
    ended.end.cost = cost;
  }
  observer_->Observe(*record);
  int64_t unrecorded = 0;
  for (EndedRequest& ended : record->ended) {
    if (store_ != nullptr && !ended.row.unrecorded) {
      waiting_.push_back(std::move(ended));
      continue;
    }
    unrecorded += ended.row.unrecorded;
    PostToBudget(ended.row, /*stored=*/false);
    Tell(&ended);
  }
  for (Period& period : record->periods) booked_until_ns_ = period.end_ns;
  if (store_ == nullptr) return;
  std::move(record->periods.begin(), record->periods.end(), std::back_inserter(periods_));
  absl::MutexLock lock(&mutex_);
  state_.unrecorded_requests += unrecorded;
  state_.rows_waiting = static_cast<int64_t>(waiting_.size());
}

void Bookkeeper::Commit(int64_t now_ns) {
  const absl::Status status = store_->Write(waiting_, periods_, holds_);
  const int64_t done_ns = clock_->NowNs();
  if (!status.ok()) {
    NoteFailure(status, done_ns);
    return;
  }
  NoteCommit(done_ns - now_ns, done_ns);
  for (EndedRequest& ended : waiting_) {
    PostToBudget(ended.row, /*stored=*/true);
    if (ended.stream != nullptr) Tell(&ended);
  }
  waiting_.clear();
  periods_.clear();
  holds_ = {};
  Post();
}

void Bookkeeper::PostToBudget(const RequestRow& row, bool stored) {
  if (options_.budgets != nullptr) options_.budgets->Post(row, stored);
}

void Bookkeeper::NoteCommit(int64_t commit_ns, int64_t now_ns) {
  const int64_t rows = static_cast<int64_t>(waiting_.size());
  observer_->ObserveCommit(commit_ns, rows);
  {
    absl::MutexLock lock(&mutex_);
    ++state_.commits;
    state_.commit_ns_last = commit_ns;
    state_.rows_stored += rows;
    state_.rows_waiting = 0;
  }
  if (!unrecordable()) return;
  spdlog::warn(
      "usage store {}: it can be written again after {:.1f} s; {} rows that waited are in it",
      store_->path(), (now_ns - unrecordable_since_ns_) / 1e9, rows);
  unrecordable_ = false;
  if (options_.unrecorded != nullptr) options_.unrecorded->store(false);
}

void Bookkeeper::NoteFailure(const absl::Status& status, int64_t now_ns) {
  next_try_ns_ = now_ns + options_.retry_ns;
  {
    absl::MutexLock lock(&mutex_);
    ++state_.commits_failed;
  }
  if (unrecordable()) return;
  const bool serves = options_.when_unrecordable == WhenUnrecordable::kServe;
  spdlog::error("{}. {}", std::string(status.message()),
                serves ? "Answers go on, unrecorded, until it can be written again"
                       : "New requests are refused until it can be written again");
  unrecordable_since_ns_ = now_ns;
  unrecordable_ = true;
  if (serves && options_.unrecorded != nullptr) options_.unrecorded->store(true);
}

// Their rows go on waiting: the time is booked, and what is booked is stored once that is possible.
void Bookkeeper::TellWhoMustNotWait(int64_t now_ns) {
  for (EndedRequest& ended : waiting_) {
    if (ended.stream == nullptr) continue;
    if (options_.when_unrecordable == WhenUnrecordable::kServe) {
      ended.end.cost.unrecorded = true;
    } else if (now_ns >= ended.deadline_ns) {
      ended.end.status = RefusalStatus(
          absl::StatusCode::kDeadlineExceeded,
          "the answer was complete, and the deadline passed before it could be recorded",
          Because(reason::kDeadline));
    } else if (leaving_) {
      ended.end.status = RefusalStatus(
          absl::StatusCode::kUnavailable,
          "the answer was complete, but the server had to end before it could record it; it is not "
          "billed; send the request to another replica",
          Because(reason::kUnrecordable));
    } else {
      continue;
    }
    Tell(&ended);
  }
  Post();
}

// Everything that the caller is told, last.
void Bookkeeper::Tell(EndedRequest* ended) {
  observer_->ObserveClosing(clock_->NowNs() - ended->row.ended_ns);
  ended->stream->End(std::move(ended->end));
  if (ended->stream->ClaimNotice()) ready_.push_back(std::move(ended->stream));
  ended->stream = nullptr;
  untold_.fetch_sub(1, std::memory_order_acq_rel);
}

absl::Status Bookkeeper::MayRecord() const {
  if (options_.when_unrecordable == WhenUnrecordable::kServe || !unrecordable()) {
    return absl::OkStatus();
  }
  Refusal refusal = Because(reason::kUnrecordable);
  refusal.retry_after_ms = options_.retry_ns / 1'000'000;
  return RefusalStatus(absl::StatusCode::kUnavailable,
                       "the server cannot write its usage records (a full or failing disk) and "
                       "starts no request that it could not record; it tries again by itself: "
                       "retry, or send to another replica",
                       refusal);
}

void Bookkeeper::FinishTelling() {
  // Records first: a record that is released has been counted in untold_ before.
  const auto told = [this] { return records_->waiting() == 0 && untold_ == 0; };
  const int64_t until_ns = clock_->NowNs() + options_.give_up_ns;
  while (!told() && clock_->NowNs() < until_ns) std::this_thread::sleep_for(kLookEvery);
  if (told()) return;
  leaving_ = true;
  for (int i = 0; i < 1000 && !told(); ++i) std::this_thread::sleep_for(kLookEvery);
}

StoreState Bookkeeper::Snapshot() const {
  StoreState state;
  {
    absl::MutexLock lock(&mutex_);
    state = state_;
  }
  state.path = store_->path();
  state.unrecordable = unrecordable();
  state.bytes_free = store_->BytesFree();
  return state;
}

}  // namespace tuppence
