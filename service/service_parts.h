// ServiceParts: what every call works with, and the limits it keeps. Put together by serve (or a
// test), outlives the server; each part is safe on any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace tuppence {

class AdmissionControl;
class AnswerKeys;
class ApiKeys;
class BatchJobs;
class Bookkeeper;
class Budgets;
class CallRegistry;
class Clock;
class Engine;
class FileStore;
class Metrics;
class RequestLog;
class TenantRates;
class Tenants;
class ServiceCounters;
struct ServedModel;
struct StoreState;

struct CallLimits {
  int64_t deadline_max_ns = int64_t{3600} * 1'000'000'000;  // later or absent deadlines become this
  int64_t prompt_bytes_max = 1 << 20;                       // refused by size before tokenising
  int64_t messages_max = 1024;                              // of one chat
  std::string tenant_header;  // lower case; "": every caller is tenant "unknown"
  bool strict = false;        // unknown fields are refused
};

struct ServiceParts {
  const ServedModel* model = nullptr;
  Engine* engine = nullptr;
  AdmissionControl* admission = nullptr;
  const Clock* clock = nullptr;
  CallRegistry* calls = nullptr;
  RequestLog* log = nullptr;
  ServiceCounters* counters = nullptr;
  CallLimits limits;
  Metrics* metrics = nullptr;                   // null where no admin port asks
  std::function<StoreState()> store = nullptr;  // how the usage store fares; empty: there is none
  const Bookkeeper* books = nullptr;            // null in tests: everything may be recorded
  const Tenants* tenants = nullptr;             // null: all are alike
  Budgets* budgets = nullptr;                   // null where no usage store is kept
  TenantRates* rates = nullptr;                 // goes with tenants
  AnswerKeys* answer_keys = nullptr;            // null: idempotency keys are passed over
  FileStore* files = nullptr;                   // null: /v1/files and /v1/batches are off
  BatchJobs* jobs = nullptr;                    // goes with files
  const ApiKeys* keys = nullptr;                // null: nobody needs one
  std::string usage_store;                      // its file, for readers; "": there is none
};

}  // namespace tuppence
