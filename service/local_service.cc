// See local_service.h.
#include "service/local_service.h"

#include <utility>

#include "scheduler/admission.h"
#include "scheduler/clock.h"
#include "scheduler/engine.h"
#include "service/call_registry.h"
#include "service/model_loader.h"
#include "service/request_log.h"
#include "service/server.h"
#include "service/service_counters.h"
#include "service/service_parts.h"

namespace tuppence {

// In order of need; they go in reverse.
struct LocalService::Parts {
  SteadyClock clock;
  AdmissionControl admission = AdmissionControl(AdmissionLimits());
  CallRegistry calls;
  RequestLog log = RequestLog(nullptr);
  ServiceCounters counters;
  std::unique_ptr<LoadedModel> model;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Server> server;
  std::unique_ptr<Client> client;
};

absl::StatusOr<std::unique_ptr<LocalService>> LocalService::Load(const ModelOptions& options,
                                                                 const RateCard& rate_card) {
  auto parts = std::make_unique<Parts>();
  LoadOptions load;
  load.model = options;
  absl::StatusOr<std::unique_ptr<LoadedModel>> model = LoadModel(load);
  if (!model.ok()) return model.status();
  parts->model = *std::move(model);
  const ServedModel& served = parts->model->served;
  EngineOptions engine_options = parts->model->engine;
  engine_options.rate_card = rate_card;
  parts->engine = std::make_unique<Engine>(engine_options, parts->model->executor(),
                                           served.tokenizer.get(), &parts->clock);
  parts->engine->Start();
  ServiceParts service;
  service.model = &served;
  service.engine = parts->engine.get();
  service.admission = &parts->admission;
  service.clock = &parts->clock;
  service.calls = &parts->calls;
  service.log = &parts->log;
  service.counters = &parts->counters;
  ServerOptions server_options;
  server_options.listen = false;
  absl::StatusOr<std::unique_ptr<Server>> server = Server::Start(server_options, service);
  if (!server.ok()) return server.status();
  parts->server = *std::move(server);
  parts->client = std::make_unique<Client>(parts->server->InProcessChannel(), 0, /*key=*/"");
  return std::unique_ptr<LocalService>(new LocalService(std::move(parts)));
}

LocalService::LocalService(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

LocalService::~LocalService() {
  parts_->client.reset();
  parts_->server.reset();
  parts_->engine->Stop();
}

Client* LocalService::client() { return parts_->client.get(); }

std::unique_ptr<Client> LocalService::NewClient(double timeout_seconds) {
  return std::make_unique<Client>(parts_->server->InProcessChannel(), timeout_seconds, /*key=*/"");
}

}  // namespace tuppence
