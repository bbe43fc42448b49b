// LocalService: a model loaded in this process and served to it alone, over a channel without a
// socket. Everything is as in a running service but the port: the same loader, validation, engine
// and arithmetic. Used by score_command.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "service/client.h"
#include "service/options.h"

namespace tuppence {

class LocalService {
 public:
  static absl::StatusOr<std::unique_ptr<LocalService>> Load(const ModelOptions& options);
  ~LocalService();

  Client* client();

 private:
  struct Parts;
  explicit LocalService(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace tuppence
