// BatchAsker: whom a batch's lines are asked. client_asker asks a service over gRPC, direct_asker
// this very one. One line at a time: the runner has one for each line in progress.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "scheduler/request.h"
#include "service/batch_line.h"

namespace tuppence {

// What the books have of a request.
struct BookedAnswer {
  bool open = false;  // not ended yet
  std::string request_id;
  int code = 0;  // gRPC's, as it ended with
  Usage usage;
  Cost cost;
};

class BatchAsker {
 public:
  virtual ~BatchAsker() = default;
  // Asks, and adds to *answer what comes. name: the caller's own for the request: asked again under
  // it, the request is answered as before, and costs what it did. Errors are the service's, with
  // their Refusals; the answer may then be complete all the same, but for its end.
  virtual absl::Status Ask(const BatchAsk& ask, const std::string& name, BatchAnswer* answer) = 0;
  // The latest request of that name. NOT_FOUND: the books have none.
  virtual absl::Status FindBooked(const std::string& name, BookedAnswer* booked) = 0;
};

}  // namespace tuppence
