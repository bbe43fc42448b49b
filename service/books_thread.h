// BooksThread: the other end of StepRecords where there is no usage store: shows each record to the
// observer, then sends the closing messages of the requests that ended in it. Made by serve.
#pragma once

#include <memory>
#include <thread>
#include <vector>

#include "scheduler/step_records.h"
#include "scheduler/token_stream.h"
#include "service/record_observer.h"

namespace tuppence {

class BooksThread {
 public:
  // All of them outlive it. Starts at once.
  BooksThread(StepRecords* records, StreamNotifier* notifier, RecordObserver* observer);
  ~BooksThread();  // waits until the engine has closed the records and the last one is done

 private:
  void Run();

  StepRecords* const records_;
  StreamNotifier* const notifier_;
  RecordObserver* const observer_;
  std::vector<std::shared_ptr<TokenStream>> ready_;
  std::thread thread_;
};

}  // namespace tuppence
