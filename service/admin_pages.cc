#include "service/admin_pages.h"

#include "service/metrics.h"
#include "service/readiness.h"
#include "service/server.h"
#include "service/service_parts.h"
#include "service/status_page.h"

namespace tuppence {

AdminRoutes AdminPages(const AdminState* state) {
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
  return {{"/", [] { return AdminPage{.body = "/healthz\n/readyz\n/metrics\n/status\n"}; }},
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
}

}  // namespace tuppence
