#include "scheduler/token_stream.h"

#include <utility>

#include "model/check.h"
#include "scheduler/inbox.h"

namespace tuppence {
namespace {

PositionLogprobs LogprobsOf(int32_t token_id, const SampledToken& sampled) {
  PositionLogprobs logprobs;
  logprobs.chosen = {token_id, sampled.logprob};
  logprobs.top.assign(sampled.top, sampled.top + sampled.top_count);
  return logprobs;
}

}  // namespace

void StreamDelta::Clear() {
  for (ChoiceDelta& choice : choices) {
    choice.text.clear();
    choice.token_ids.clear();
    choice.logprobs.clear();
    choice.finish_reason = FinishReason::kNone;
  }
  prompt_logprobs.clear();
  end.reset();
}

TokenStream::TokenStream(int32_t choices, Limits limits) : limits_(limits) {
  CHECK_GE(choices, 1);
  CHECK_GE(limits.tokens_max, 1);
  CHECK_GE(limits.text_bytes_max, 1);
  gathered_.choices.resize(choices);
}

void TokenStream::SetReader(StreamReader* reader) {
  std::shared_ptr<StreamNotifier> notifier;
  {
    MutexLock lock(&mutex_);
    if (caller_ != std::this_thread::get_id()) {
      mutex_.Await([this] { return !calling_; });
    }
    reader_ = reader;
    if (reader == nullptr || notifier_ == nullptr || EmptyLocked()) return;
    posted_ = true;
    told_ = false;
    notifier = notifier_;
  }
  std::vector<std::shared_ptr<TokenStream>> ready = {shared_from_this()};
  notifier->Post(&ready);
}

bool TokenStream::Take(StreamDelta* delta) {
  delta->Clear();
  MutexLock lock(&mutex_);
  if (delta->choices.size() != gathered_.choices.size()) {
    delta->choices.resize(gathered_.choices.size());
  }
  posted_ = false;
  told_ = false;
  if (EmptyLocked()) return false;
  std::swap(*delta, gathered_);
  if (was_full_) {
    was_full_ = false;
    // Inside the lock, so that End cannot let the engine go in between.
    if (inbox_ != nullptr) inbox_->WakeForRoom();
  }
  return true;
}

void TokenStream::Cancel() {
  MutexLock lock(&mutex_);
  cancelled_.store(true, std::memory_order_release);
  if (inbox_ != nullptr) inbox_->WakeForCancel();
}

void TokenStream::Attach(Inbox* inbox, std::shared_ptr<StreamNotifier> notifier) {
  MutexLock lock(&mutex_);
  inbox_ = inbox;
  notifier_ = std::move(notifier);
}

bool TokenStream::HasRoom(int32_t choice) const {
  MutexLock lock(&mutex_);
  return HasRoomLocked(choice);
}

TokenStream::Appended TokenStream::Append(int32_t choice, int32_t token_id, std::string_view text,
                                          const SampledToken* logprobs) {
  MutexLock lock(&mutex_);
  ChoiceDelta& delta = gathered_.choices[choice];
  delta.token_ids.push_back(token_id);
  delta.text.append(text);
  if (logprobs != nullptr) delta.logprobs.push_back(LogprobsOf(token_id, *logprobs));
  const Appended appended = {.has_room = HasRoomLocked(choice), .notice = !posted_};
  if (!appended.has_room) was_full_ = true;
  posted_ = true;
  return appended;
}

void TokenStream::AppendPromptLogprobs(int32_t token_id, const SampledToken& position) {
  MutexLock lock(&mutex_);
  gathered_.prompt_logprobs.push_back(LogprobsOf(token_id, position));
}

void TokenStream::FinishChoice(int32_t choice, std::string_view text, FinishReason reason) {
  MutexLock lock(&mutex_);
  gathered_.choices[choice].text.append(text);
  gathered_.choices[choice].finish_reason = reason;
}

void TokenStream::End(RequestEnd end) {
  MutexLock lock(&mutex_);
  CHECK(!ended_);
  ended_ = true;
  gathered_.end = std::move(end);
  inbox_ = nullptr;
}

bool TokenStream::ClaimNotice() {
  MutexLock lock(&mutex_);
  if (posted_ || EmptyLocked()) return false;
  posted_ = true;
  return true;
}

void TokenStream::Notify() {
  StreamReader* reader = nullptr;
  {
    MutexLock lock(&mutex_);
    // Taken since it was posted, or told by an earlier post: nothing to say.
    if (reader_ == nullptr || !posted_ || told_) return;
    told_ = true;
    reader = reader_;
    calling_ = true;
    caller_ = std::this_thread::get_id();
  }
  reader->OnReady();
  MutexLock lock(&mutex_);
  calling_ = false;
  caller_ = std::thread::id();
  mutex_.Signal();
}

bool TokenStream::HasRoomLocked(int32_t choice) const {
  const ChoiceDelta& delta = gathered_.choices[choice];
  return static_cast<int64_t>(delta.token_ids.size()) < limits_.tokens_max &&
         static_cast<int64_t>(delta.text.size()) < limits_.text_bytes_max;
}

bool TokenStream::EmptyLocked() const {
  if (gathered_.end.has_value() || !gathered_.prompt_logprobs.empty()) return false;
  for (const ChoiceDelta& choice : gathered_.choices) {
    if (!choice.empty()) return false;
  }
  return true;
}

StreamNotifier::~StreamNotifier() { Stop(); }

void StreamNotifier::Start() {
  CHECK(!thread_.joinable());
  thread_ = std::thread([this] { Run(); });
}

void StreamNotifier::Stop() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    mutex_.Signal();
  }
  if (thread_.joinable()) thread_.join();
  NotifyAll();
}

void StreamNotifier::Post(std::vector<std::shared_ptr<TokenStream>>* ready) {
  if (ready->empty()) return;
  MutexLock lock(&mutex_);
  for (std::shared_ptr<TokenStream>& stream : *ready) posted_.push_back(std::move(stream));
  ready->clear();
  mutex_.Signal();
}

void StreamNotifier::NotifyAll() {
  std::vector<std::shared_ptr<TokenStream>> batch;
  {
    MutexLock lock(&mutex_);
    batch.swap(posted_);
  }
  for (const std::shared_ptr<TokenStream>& stream : batch) stream->Notify();
  batch.clear();
  MutexLock lock(&mutex_);
  if (posted_.empty()) posted_.swap(batch);  // its memory serves again
}

void StreamNotifier::Run() {
  std::vector<std::shared_ptr<TokenStream>> batch;
  while (true) {
    {
      MutexLock lock(&mutex_);
      mutex_.Await([this] { return stopping_ || !posted_.empty(); });
      if (posted_.empty()) return;  // stopping, and nothing left to say
      batch.swap(posted_);
    }
    for (const std::shared_ptr<TokenStream>& stream : batch) stream->Notify();
    batch.clear();
  }
}

}  // namespace tuppence
