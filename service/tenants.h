// Tenants: what the operator grants each tenant: its share of the machine, the classes it may use,
// how much it may have in progress. From a file (--tenants), read again on SIGHUP:
//
//   {"tenants": {"shop":  {"weight": 4, "classes": ["interactive", "standard"]},
//                "crawl": {"weight": 0.5, "classes": ["batch"], "requests_max": 200,
//                          "prompt_tokens_max": 400000, "budget": {"usd": 5, "per": "day"}}},
//    "others":  {"weight": 1, "budget": {"usd": 0.5, "per": "month"}}}
//
// requests_per_minute and tokens_per_minute limit a tenant in time; without them nothing does.
// "others" is everybody whom the file does not name, each for itself. What an entry leaves out is:
// weight 1, every class, the limits of --tenant-requests-max and --tenant-tokens-max, no budget.
// Made by serve, read by the calls. Safe on any thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "scheduler/admission.h"
#include "scheduler/priority_class.h"
#include "service/budgets.h"
#include "service/tenant_rates.h"

namespace tuppence {

// "interactive", "standard", "batch".
const char* NameOf(PriorityClass priority_class);

struct TenantGrant {
  MinuteLimits minute;
  int64_t weight_milli = 1000;
  std::array<bool, kPriorityClasses> may_use = {true, true, true};
  TenantLimits limits;
  std::optional<Budget> budget;
};

struct TenantGrants {
  absl::flat_hash_map<std::string, TenantGrant> tenants;
  TenantGrant others;

  // `defaults`: limits where an entry has none. INVALID_ARGUMENT names the entry and what is
  // allowed.
  static absl::StatusOr<TenantGrants> Parse(const std::string& text, const TenantLimits& defaults);
};

// What one request is scheduled by.
struct TenantTerms {
  PriorityClass priority_class = PriorityClass::kStandard;
  int64_t weight_milli = 1000;
  MinuteLimits minute;
};

class Tenants {
 public:
  // path "": everybody gets the defaults. admission is told of the limits, budgets of the budgets;
  // both outlive this. budgets null: spend is not kept, and a budget is FAILED_PRECONDITION.
  static absl::StatusOr<std::unique_ptr<Tenants>> Open(const std::string& path,
                                                       AdmissionControl* admission,
                                                       Budgets* budgets = nullptr);
  // Reads the file again; holds for requests that come from now on. On an error all stays as it
  // was. FAILED_PRECONDITION: there is no file.
  absl::Status Reload();
  bool has_file() const { return !path_.empty(); }

  // The class that was asked for; where none was, standard or else the first that the tenant may
  // use. PERMISSION_DENIED where it may not use the one it asked for.
  absl::StatusOr<TenantTerms> TermsOf(const std::string& tenant,
                                      std::optional<PriorityClass> asked) const;
  MinuteLimits MinuteOf(const std::string& tenant) const;

 private:
  const TenantGrant& GrantOf(const std::string& tenant) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Tenants(std::string path, AdmissionControl* admission, Budgets* budgets)
      : path_(std::move(path)), admission_(admission), budgets_(budgets) {}

  const std::string path_;
  AdmissionControl* const admission_;
  Budgets* const budgets_;
  mutable absl::Mutex mutex_;
  TenantGrants grants_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tuppence
