// LocalService: a model loaded in this process and served to it alone, over a channel without a
// socket. Everything is as in a running service but the port: the same loader, validation, engine
// and arithmetic. Used by score_command and batch_command.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "scheduler/rate_card.h"
#include "service/client.h"
#include "service/options.h"

namespace tuppence {

class LocalService {
 public:
  // rate_card: what this machine costs; answers carry no cost where it is not known.
  static absl::StatusOr<std::unique_ptr<LocalService>> Load(const ModelOptions& options,
                                                            const RateCard& rate_card = {});
  ~LocalService();

  Client* client();
  // Another one, for a call beside others. The service outlives it.
  std::unique_ptr<Client> NewClient(double timeout_seconds);

 private:
  struct Parts;
  explicit LocalService(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace tuppence
