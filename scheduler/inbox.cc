#include "scheduler/inbox.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "model/check.h"
#include "scheduler/refusal.h"

namespace tuppence {

Inbox::Inbox(int32_t requests_max, int64_t retry_after_ms)
    : requests_max_(requests_max), retry_after_ms_(retry_after_ms) {
  CHECK_GT(requests_max, 0);
  requests_.reserve(requests_max);
}

absl::Status Inbox::Submit(Request request) {
  MutexLock lock(&mutex_);
  if (!closed_.ok()) return closed_;
  if (static_cast<int32_t>(requests_.size()) >= requests_max_) {
    Refusal refusal;
    refusal.reason = reason::kQueueFull;
    refusal.retry_after_ms = retry_after_ms_;
    refusal.metadata = {{"inbox_requests_max", absl::StrCat(requests_max_)}};
    return RefusalStatus(absl::StatusCode::kUnavailable,
                         absl::StrCat("the server's inbox is full: it holds ", requests_max_,
                                      " requests that the engine has not seen yet; retry in ",
                                      retry_after_ms_, " ms or send to another replica"),
                         refusal);
  }
  requests_.push_back(std::move(request));
  arrived_.store(true, std::memory_order_release);
  woken_ = true;
  mutex_.Signal();
  return absl::OkStatus();
}

void Inbox::WakeForCancel() {
  cancelled_.store(true, std::memory_order_release);
  Wake();
}

void Inbox::WakeForRoom() {
  room_.store(true, std::memory_order_release);
  Wake();
}

void Inbox::Wake() {
  MutexLock lock(&mutex_);
  woken_ = true;
  mutex_.Signal();
}

void Inbox::Close(absl::Status status) {
  CHECK(!status.ok());
  MutexLock lock(&mutex_);
  closed_ = std::move(status);
  woken_ = true;
  mutex_.Signal();
}

void Inbox::Take(std::vector<Request>* requests) {
  CHECK(requests->empty());
  if (!arrived_.load(std::memory_order_acquire)) return;
  MutexLock lock(&mutex_);
  arrived_.store(false, std::memory_order_relaxed);
  requests_.swap(*requests);
}

void Inbox::Wait(int64_t timeout_ns) {
  if (timeout_ns <= 0) return;
  MutexLock lock(&mutex_);
  mutex_.AwaitFor(timeout_ns, [this] { return woken_; });
  woken_ = false;
}

bool Inbox::closed() const {
  MutexLock lock(&mutex_);
  return !closed_.ok();
}

int64_t Inbox::size() const {
  MutexLock lock(&mutex_);
  return static_cast<int64_t>(requests_.size());
}

}  // namespace tuppence
