// TraceWriter: keeps a trace of what is served (planner/trace_file): when each request came, how
// many tokens went in and out, whose it was and of which class; never what was asked or answered.
// For `serve --write-trace`. Requests that had no token are left out: what they would have asked of
// the machine is not known.
#pragma once

#include <cstdint>
#include <fstream>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "service/record_observer.h"

namespace tuppence {

class TraceWriter final : public RecordObserver {
 public:
  // Goes on at the end of a trace that is there; "" writes none. next sees every record too and
  // outlives this.
  // PERMISSION_DENIED and the like where the file cannot be written.
  static absl::StatusOr<std::unique_ptr<TraceWriter>> Open(const std::string& path,
                                                           RecordObserver* next);

  void Observe(const StepRecord& record) override;
  void ObserveCommit(int64_t commit_ns, int64_t rows) override {
    next_->ObserveCommit(commit_ns, rows);
  }
  void ObserveClosing(int64_t delay_ns) override { next_->ObserveClosing(delay_ns); }

 private:
  TraceWriter(const std::string& path, RecordObserver* next);
  void Write(const StepRecord& record);

  const std::string path_;
  RecordObserver* const next_;
  std::ofstream file_;
  bool failed_ = false;  // and the log has it
};

}  // namespace tuppence
