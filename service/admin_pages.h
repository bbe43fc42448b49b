// The pages of the admin port: health, readiness, metrics, status. They answer from the first
// second; what they say of the service comes once there is one. Made by serve, called on the admin
// thread.
#pragma once

#include <atomic>

#include "service/admin_server.h"

namespace tuppence {

class Server;
struct ServiceParts;

// Both are null while the model is being loaded; what they point at outlives the admin server.
struct AdminState {
  std::atomic<const Server*> server = nullptr;
  std::atomic<const ServiceParts*> parts = nullptr;
};

// `state` outlives the pages.
AdminRoutes AdminPages(const AdminState* state);

}  // namespace tuppence
