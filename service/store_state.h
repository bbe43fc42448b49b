// StoreState: how the usage store fares, for /metrics and /status. Filled by the bookkeeper when
// asked; a plain copy.
#pragma once

#include <cstdint>
#include <string>

namespace tuppence {

struct StoreState {
  std::string path;
  int64_t commits = 0;
  int64_t commits_failed = 0;
  int64_t commit_ns_last = 0;
  int64_t rows_stored = 0;
  int64_t rows_waiting = 0;         // ended requests whose rows are not durable yet
  bool unrecordable = false;        // the last commit failed: rows cannot be stored
  int64_t unrecorded_requests = 0;  // served meanwhile, with --when-unrecordable=serve
  int64_t bytes_free = -1;          // on the store's file system; -1: not known
};

}  // namespace tuppence
