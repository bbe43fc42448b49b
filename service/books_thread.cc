#include "service/books_thread.h"

#include <pthread.h>

#include <utility>

namespace tuppence {

BooksThread::BooksThread(StepRecords* records, StreamNotifier* notifier, RecordObserver* observer)
    : records_(records), notifier_(notifier), observer_(observer), thread_([this] { Run(); }) {}

BooksThread::~BooksThread() { thread_.join(); }

void BooksThread::Run() {
  pthread_setname_np(pthread_self(), "books");
  constexpr int64_t kWaitNs = 500'000'000;
  while (true) {
    // Read first: what was published before Close is then seen below.
    const bool closed = records_->closed();
    while (StepRecord* record = records_->Front()) {
      observer_->Observe(*record);
      for (EndedRequest& ended : record->ended) {
        ended.stream->End(std::move(ended.end));
        if (ended.stream->ClaimNotice()) ready_.push_back(std::move(ended.stream));
      }
      notifier_->Post(&ready_);
      records_->Release();
    }
    if (closed) return;
    records_->Wait(kWaitNs);
  }
}

}  // namespace tuppence
