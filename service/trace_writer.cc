#include "service/trace_writer.h"

#include <spdlog/spdlog.h>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "service/planner/trace_file.h"

namespace tuppence {

absl::StatusOr<std::unique_ptr<TraceWriter>> TraceWriter::Open(const std::string& path,
                                                               RecordObserver* next) {
  std::unique_ptr<TraceWriter> writer = absl::WrapUnique(new TraceWriter(path, next));
  if (path.empty()) return writer;
  std::ofstream& file = writer->file_;
  if (file && file.tellp() == 0) file << kTraceHeading;
  if (file.flush()) return writer;
  return absl::PermissionDeniedError(absl::StrCat(
      "--write-trace ", path,
      ": cannot be written; check the path, its permissions and the space on its disk"));
}

TraceWriter::TraceWriter(const std::string& path, RecordObserver* next) : path_(path), next_(next) {
  if (!path.empty()) file_.open(path, std::ios::binary | std::ios::app | std::ios::ate);
}

void TraceWriter::Observe(const StepRecord& record) {
  if (!path_.empty()) Write(record);
  next_->Observe(record);
}

void TraceWriter::Write(const StepRecord& record) {
  for (const EndedRequest& ended : record.ended) {
    if (ended.row.usage.completion_tokens > 0) file_ << TraceLine(ended.row);
  }
  if (!record.ended.empty()) file_.flush();
  if (!file_ && !failed_) {
    failed_ = true;
    spdlog::error("--write-trace {}: cannot be written any more; the trace ends here", path_);
  }
}

}  // namespace tuppence
