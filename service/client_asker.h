// ClientAsker: a batch's lines, asked over gRPC, each under its name as idempotency key, so that
// one whose answer a kill took before it was written down is answered as before and billed once.
// Used by batch_command.
#pragma once

#include <memory>
#include <string>

#include "service/batch_asker.h"
#include "service/client.h"

namespace tuppence {

class ClientAsker final : public BatchAsker {
 public:
  // arithmetic_id: the service's, as GetModel tells.
  ClientAsker(std::unique_ptr<Client> client, std::string arithmetic_id)
      : client_(std::move(client)), arithmetic_id_(std::move(arithmetic_id)) {}

  absl::Status Ask(const BatchAsk& ask, const std::string& name, BatchAnswer* answer) override;
  absl::Status FindBooked(const std::string& name, BookedAnswer* booked) override;

 private:
  absl::Status TellFirstCost(const std::string& request_id, BatchAnswer* answer);

  const std::unique_ptr<Client> client_;
  const std::string arithmetic_id_;
};

}  // namespace tuppence
