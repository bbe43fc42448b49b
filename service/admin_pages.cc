#include "service/admin_pages.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "service/http_server.h"
#include "service/metrics.h"
#include "service/page_files.h"
#include "service/readiness.h"
#include "service/server.h"
#include "service/service_parts.h"
#include "service/status_page.h"

namespace tuppence {

AdminRoutes AdminPages(const AdminState* state, bool has_page) {
  constexpr char kMetricsType[] = "text/plain; version=0.0.4; charset=utf-8";
  const auto judge = [state](bool Readiness::*asked) {
    const Server* server = state->server.load();
    if (server == nullptr) {
      return AdminPage{.status = asked == &Readiness::live ? 200 : 503,
                       .body = "loading the model\n"};
    }
    const Readiness verdict = server->readiness();
    return verdict.*asked ? AdminPage{.body = "ok\n"}
                          : AdminPage{.status = 503, .body = verdict.reason + "\n"};
  };
  AdminRoutes routes = {
      {"/", [] { return AdminPage{.body = "/healthz\n/readyz\n/metrics\n/status\n"}; }},
      {"/healthz", [judge] { return judge(&Readiness::live); }},
      {"/readyz", [judge] { return judge(&Readiness::ready); }},
      {"/status",
       [state] {
         const ServiceParts* parts = state->parts.load();
         const Server* server = state->server.load();
         if (parts == nullptr || server == nullptr) {
           return AdminPage{.status = 503, .body = "loading the model\n"};
         }
         return AdminPage{.content_type = "application/json",
                          .body = StatusJson(*parts, server->readiness())};
       }},
      {"/metrics", [state] {
         const ServiceParts* parts = state->parts.load();
         if (parts == nullptr) return AdminPage{.status = 503, .body = "loading the model\n"};
         return AdminPage{.content_type = kMetricsType, .body = FormatMetrics(*parts)};
       }}};
  const auto add_file = [&routes](const char* path, const char* type, const char* text) {
    routes[path] = [type, text] {
      return AdminPage{.content_type = absl::StrCat(type, "; charset=utf-8"), .body = text};
    };
  };
  if (has_page) {
    add_file("/", "text/html", kPageHtml);
    add_file("/page.css", "text/css", kPageCss);
    add_file("/page.js", "text/javascript", kPageJs);
  }
  return routes;
}

PostTaker AdminPosts(const AdminState* state) {
  return {
      .ready = [state] { return state->http.load() != nullptr; },
      .take = [state](int socket,
                      std::string begun) { state->http.load()->Take(socket, std::move(begun)); }};
}

}  // namespace tuppence
