// CallRegistry: the Generate calls that are open, so that a caller who has stopped reading can be
// cut off: its write never completes, and only cancelling the call ends it; and so that the status
// page can list them. Calls enter and leave by themselves; the server's watch thread sweeps. Any
// thread but the engine's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"

namespace tuppence {

class WatchedCall {
 public:
  virtual ~WatchedCall() = default;
  // When the write in flight began (monotonic); 0 when none is.
  virtual int64_t writing_since_ns() const = 0;
  // Ends the call; at most a few times. Must not call the registry back.
  virtual void CutOff() = 0;
  // Output tokens so far.
  virtual int64_t completion_tokens() const = 0;
};

// A call as the status page shows it: never what was asked or answered.
struct OpenCall {
  std::string request_id;
  std::string caller_request_id;
  std::string tenant;
  int64_t received_ns = 0;  // monotonic
  int64_t prompt_tokens = 0;
  int64_t max_tokens = 0;
  int64_t completion_tokens = 0;
};

class CallRegistry {
 public:
  void Add(WatchedCall* call) {
    absl::MutexLock lock(&mutex_);
    calls_[call];
  }
  // What the call is, once that is known. Before, it is not listed.
  void Describe(WatchedCall* call, OpenCall description) {
    absl::MutexLock lock(&mutex_);
    calls_[call] = std::move(description);
  }
  // After this no sweep touches the call.
  void Remove(WatchedCall* call) {
    absl::MutexLock lock(&mutex_);
    calls_.erase(call);
  }
  // Cuts off each call whose write began before `before_ns`; returns how many.
  int64_t CutOffWritesBefore(int64_t before_ns) {
    absl::MutexLock lock(&mutex_);
    int64_t count = 0;
    for (const auto& [call, description] : calls_) {
      const int64_t since = call->writing_since_ns();
      if (since == 0 || since >= before_ns) continue;
      call->CutOff();
      ++count;
    }
    return count;
  }
  // The tenant's call of that id, ours or the caller's own: then the latest.
  std::optional<OpenCall> Find(const std::string& tenant, const std::string& id) const {
    std::optional<OpenCall> found;
    absl::MutexLock lock(&mutex_);
    for (const auto& [call, description] : calls_) {
      if (description.tenant != tenant) continue;
      const bool ours = description.request_id == id;
      if (!ours && description.caller_request_id != id) continue;
      if (found.has_value() && !ours && found->received_ns > description.received_ns) continue;
      found = description;
      found->completion_tokens = call->completion_tokens();
      if (ours) break;
    }
    return found;
  }
  // Those that have waited longest, at most so many.
  std::vector<OpenCall> Oldest(size_t count_max) const {
    std::vector<OpenCall> open;
    {
      absl::MutexLock lock(&mutex_);
      for (const auto& [call, description] : calls_) {
        if (description.request_id.empty()) continue;
        open.push_back(description);
        open.back().completion_tokens = call->completion_tokens();
      }
    }
    std::sort(open.begin(), open.end(),
              [](const OpenCall& a, const OpenCall& b) { return a.received_ns < b.received_ns; });
    if (open.size() > count_max) open.resize(count_max);
    return open;
  }
  int64_t size() const {
    absl::MutexLock lock(&mutex_);
    return static_cast<int64_t>(calls_.size());
  }

 private:
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<WatchedCall*, OpenCall> calls_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tuppence
