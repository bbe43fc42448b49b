// What the settings of `tuppence serve` mean for each of its parts. Pure, but for OpenFiles. Called
// by serve.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "scheduler/admission.h"
#include "scheduler/engine.h"
#include "scheduler/rate_card.h"
#include "service/bookkeeper.h"
#include "service/file_store.h"
#include "service/http_server.h"
#include "service/metrics.h"
#include "service/options.h"
#include "service/reference_price.h"
#include "service/served_model.h"
#include "service/server.h"
#include "service/service_parts.h"

namespace tuppence {

int64_t NsOf(double seconds);

AdmissionLimits AdmissionOf(const ServeOptions& options);
CallLimits CallLimitsOf(const ServeOptions& options, const ServedModel& model);
ServerOptions ServerOptionsOf(const ServeOptions& options);
HttpServerOptions HttpServerOptionsOf(const ServeOptions& options);
// Whether the admin port has the page to chat on: auto means where no stranger could.
bool HasPage(const ServeOptions& options);
// The addresses at which other machines may call, each by its flag; "": none.
std::string OpenAddresses(const ServeOptions& options);
MetricsOptions MetricsOptionsOf(const ServeOptions& options, const ServedModel& model);
// Those that are not the model's.
void SetEngineOptions(const ServeOptions& options, int64_t started_ns, const RateCard& rate_card,
                      EngineOptions* engine);
BookkeeperOptions BookkeeperOptionsOf(const ServeOptions& options,
                                      const std::optional<ReferencePrice>& reference,
                                      std::atomic<bool>* unrecorded, Budgets* budgets);

// The folder of --files-dir; null where none are kept. INVALID_ARGUMENT without an HTTP door.
absl::StatusOr<std::unique_ptr<FileStore>> OpenFiles(const ServeOptions& options);

}  // namespace tuppence
