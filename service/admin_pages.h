// The pages of the admin port: health, readiness, metrics, status, and a page for people at /,
// which chats by POST /v1/chat/completions on the same port: the OpenAI door answers that. They
// answer from the first second; what they say of the service comes once there is one. Made by
// serve, called on the admin thread.
#pragma once

#include <atomic>

#include "service/admin_server.h"

namespace tuppence {

class HttpServer;
class Server;
struct ServiceParts;

// All are null while the model is being loaded; what they point at outlives the admin server.
struct AdminState {
  std::atomic<const Server*> server = nullptr;
  std::atomic<const ServiceParts*> parts = nullptr;
  std::atomic<HttpServer*> http = nullptr;  // only where there is a page
};

// `state` outlives the pages. has_page: the page for people; without it / lists the others.
AdminRoutes AdminPages(const AdminState* state, bool has_page);
// What the page asks goes to state->http.
PostTaker AdminPosts(const AdminState* state);

}  // namespace tuppence
