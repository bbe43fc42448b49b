// AdminServer: plain HTTP for probes, scrapers and people: GET and HEAD of a few fixed pages. One
// thread of its own, everything bounded: header bytes, connections, time. Knows nothing of what the
// pages say. Made by serve before the model is loaded, so that /healthz answers meanwhile.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace tuppence {

struct AdminPage {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body = {};
};

// Path to what makes the page; called on the admin thread, must not block.
using AdminRoutes = std::map<std::string, std::function<AdminPage()>>;

// Who answers a POST, if anybody: where it is ready it takes the connection over, with what was
// read of it; `socket` is then its own to close. Called on the admin thread, must not block.
struct PostTaker {
  std::function<bool()> ready = [] { return false; };
  std::function<void(int socket, std::string begun)> take = nullptr;
};

class AdminServer {
 public:
  // ALREADY_EXISTS where another process listens there, UNAVAILABLE where nobody could; both name
  // the address and the way out. Port 0: any free one.
  static absl::StatusOr<std::unique_ptr<AdminServer>> Start(const std::string& host, int port,
                                                            AdminRoutes routes,
                                                            PostTaker posts = {});
  ~AdminServer();  // closes everything

  int port() const;

 private:
  class Impl;
  explicit AdminServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tuppence
