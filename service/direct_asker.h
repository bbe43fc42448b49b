// DirectAsker: a batch's lines, asked in the service's own process: a Generation like any other, as
// the doors make them, for a thread that waits. Each line has an idempotency key that no caller can
// send, so that a line whose answer a kill took before it was written down is answered as before
// and billed once. Used by batch_jobs.
#pragma once

#include <cstdint>
#include <string>

#include "service/batch_asker.h"
#include "service/service_parts.h"

namespace tuppence {

class DirectAsker final : public BatchAsker {
 public:
  // `parts` outlives this. until_ns: monotonic; no line is at work longer.
  DirectAsker(const ServiceParts& parts, std::string tenant, int64_t until_ns)
      : parts_(parts), tenant_(std::move(tenant)), until_ns_(until_ns) {}

  absl::Status Ask(const BatchAsk& ask, const std::string& name, BatchAnswer* answer) override;
  // NOT_FOUND: what is booked is found again by its key.
  absl::Status FindBooked(const std::string& name, BookedAnswer* booked) override;

 private:
  void TellFirstCost(const std::string& request_id, BatchAnswer* answer) const;

  const ServiceParts& parts_;
  const std::string tenant_;
  const int64_t until_ns_;
};

}  // namespace tuppence
