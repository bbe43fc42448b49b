#include "service/tenants.h"

#include <cmath>
#include <fstream>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/strict_json.h"
#include "service/rpc_status.h"

namespace tuppence {
namespace {

using Json = nlohmann::json;

constexpr std::array<const char*, kPriorityClasses> kClassNames = {"interactive", "standard",
                                                                   "batch"};
constexpr size_t kTenantsMax = 100'000;
constexpr int64_t kLimitMax = int64_t{1} << 40;

absl::Status Wrong(const std::string& where, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
}

absl::Status ReadWeight(const Json& value, const std::string& where, int64_t* weight_milli) {
  const double weight = value.is_number() ? value.get<double>() : -1;
  if (!(weight >= 0.001 && weight <= 1000)) {
    return Wrong(where, absl::StrCat("weight is ", ShowJson(value),
                                     "; a number from 0.001 to 1000 is allowed"));
  }
  *weight_milli = std::llround(weight * 1000);
  return absl::OkStatus();
}

absl::Status ReadClasses(const Json& value, const std::string& where,
                         std::array<bool, kPriorityClasses>* may_use) {
  const absl::Status wrong =
      Wrong(where, absl::StrCat("classes is ", ShowJson(value), "; a list of one or more of ",
                                absl::StrJoin(kClassNames, ", "), " is allowed"));
  if (!value.is_array() || value.empty()) return wrong;
  may_use->fill(false);
  for (const Json& name : value) {
    bool known = false;
    for (int i = 0; i < kPriorityClasses; ++i) {
      if (name != kClassNames[i]) continue;
      (*may_use)[i] = known = true;
    }
    if (!known) return wrong;
  }
  return absl::OkStatus();
}

absl::Status ReadLimit(const Json& value, const std::string& where, const char* key,
                       int64_t* limit) {
  if (!value.is_number_integer() || value < 0 || value > kLimitMax) {
    return Wrong(where, absl::StrCat(key, " is ", ShowJson(value), "; a whole number from 0 to ",
                                     kLimitMax, " is allowed"));
  }
  *limit = value.get<int64_t>();
  return absl::OkStatus();
}

absl::Status ReadBudget(const Json& value, const std::string& where,
                        std::optional<Budget>* budget) {
  const auto wrong = [&](const char* key, const Json& found, const char* allowed) {
    return Wrong(where, absl::StrCat(key, " is ", ShowJson(found), "; ", allowed, " is allowed"));
  };
  if (!value.is_object() || !value.contains("usd") || !value.contains("per")) {
    return wrong("budget", value, "an object as {\"usd\": 5, \"per\": \"day\"}");
  }
  if (absl::Status keys = CheckKeys(value, absl::StrCat(where, ".budget"), {"usd", "per"});
      !keys.ok()) {
    return keys;
  }
  const Json& usd = value["usd"];
  const double amount = usd.is_number() ? usd.get<double>() : -1;
  if (!(amount >= 1e-9 && amount <= 1e6)) {
    return wrong("budget.usd", usd, "a number from 0.000000001 to 1000000");
  }
  const Json& per = value["per"];
  if (per != NameOf(BudgetSpan::kDay) && per != NameOf(BudgetSpan::kMonth)) {
    return wrong("budget.per", per, "\"day\" or \"month\"");
  }
  *budget = {.nanousd = std::llround(amount * 1e9),
             .per = per == NameOf(BudgetSpan::kDay) ? BudgetSpan::kDay : BudgetSpan::kMonth};
  return absl::OkStatus();
}

absl::StatusOr<TenantGrant> ReadGrant(const Json& json, const std::string& where,
                                      const TenantLimits& defaults) {
  TenantGrant grant;
  grant.limits = defaults;
  absl::Status keys = CheckKeys(json, where,
                                {"weight", "classes", "requests_max", "prompt_tokens_max",
                                 "requests_per_minute", "tokens_per_minute", "budget", "note"});
  if (!keys.ok()) return keys;
  for (const auto& [key, value] : json.items()) {
    absl::Status read;
    if (key == "weight") read = ReadWeight(value, where, &grant.weight_milli);
    if (key == "classes") read = ReadClasses(value, where, &grant.may_use);
    if (key == "requests_max") {
      read = ReadLimit(value, where, key.c_str(), &grant.limits.requests_max);
    }
    if (key == "prompt_tokens_max") {
      read = ReadLimit(value, where, key.c_str(), &grant.limits.prompt_tokens_max);
    }
    if (key == "requests_per_minute") {
      read = ReadLimit(value, where, key.c_str(), &grant.minute.requests);
    }
    if (key == "tokens_per_minute") {
      read = ReadLimit(value, where, key.c_str(), &grant.minute.tokens);
    }
    if (key == "budget") read = ReadBudget(value, where, &grant.budget);
    if (!read.ok()) return read;
  }
  return grant;
}

absl::StatusOr<TenantGrants> ReadFile(const std::string& path, const TenantLimits& defaults) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return absl::NotFoundError(
        absl::StrCat("tenants ", path, ": cannot be read; check the path and its permissions"));
  }
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  absl::StatusOr<TenantGrants> grants = TenantGrants::Parse(text, defaults);
  if (grants.ok()) return grants;
  return absl::Status(grants.status().code(),
                      absl::StrCat("tenants ", path, ": ", grants.status().message()));
}

}  // namespace

const char* NameOf(PriorityClass priority_class) {
  return kClassNames[static_cast<int>(priority_class)];
}

absl::StatusOr<TenantGrants> TenantGrants::Parse(const std::string& text,
                                                 const TenantLimits& defaults) {
  const absl::StatusOr<Json> json = ParseStrictJson(text);
  if (!json.ok()) return json.status();
  absl::Status keys = CheckKeys(*json, "the file", {"tenants", "others", "note"});
  if (!keys.ok()) return keys;
  TenantGrants grants;
  grants.others.limits = defaults;
  if (json->contains("others")) {
    absl::StatusOr<TenantGrant> others = ReadGrant((*json)["others"], "others", defaults);
    if (!others.ok()) return others.status();
    grants.others = *others;
  }
  if (!json->contains("tenants")) return grants;
  const Json& tenants = (*json)["tenants"];
  if (!tenants.is_object() || tenants.size() > kTenantsMax) {
    return Wrong("tenants", absl::StrCat("must be an object of at most ", kTenantsMax,
                                         " names, as {\"shop\": {\"weight\": 4}}"));
  }
  for (const auto& [name, entry] : tenants.items()) {
    absl::StatusOr<TenantGrant> grant = ReadGrant(entry, absl::StrCat("tenants.", name), defaults);
    if (!grant.ok()) return grant.status();
    grants.tenants.emplace(name, *grant);
  }
  return grants;
}

absl::StatusOr<std::unique_ptr<Tenants>> Tenants::Open(const std::string& path,
                                                       AdmissionControl* admission,
                                                       Budgets* budgets) {
  std::unique_ptr<Tenants> tenants(new Tenants(path, admission, budgets));
  if (path.empty()) return tenants;
  if (absl::Status read = tenants->Reload(); !read.ok()) return read;
  return tenants;
}

absl::Status Tenants::Reload() {
  if (path_.empty()) {
    return absl::FailedPreconditionError(
        "there is no file of tenants to read again; --tenants FILE names one");
  }
  const AdmissionLimits& limits = admission_->limits();
  absl::StatusOr<TenantGrants> grants =
      ReadFile(path_, {limits.tenant_requests_max, limits.tenant_prompt_tokens_max});
  if (!grants.ok()) return grants.status();
  absl::flat_hash_map<std::string, TenantLimits> by_tenant;
  TenantBudgets spend = {.tenants = {}, .others = grants->others.budget};
  for (const auto& [name, grant] : grants->tenants) {
    by_tenant.emplace(name, grant.limits);
    spend.tenants.emplace(name, grant.budget);
  }
  if (budgets_ == nullptr && spend.any()) {
    return absl::FailedPreconditionError(
        absl::StrCat("tenants ", path_,
                     ": there is a budget in it, and no usage store to keep "
                     "account of what is spent; name one with --usage-store FILE, or take the "
                     "budgets out"));
  }
  if (budgets_ != nullptr) budgets_->SetBudgets(std::move(spend));
  absl::MutexLock lock(&mutex_);
  admission_->SetTenantLimits(std::move(by_tenant), grants->others.limits);
  grants_ = *std::move(grants);
  return absl::OkStatus();
}

const TenantGrant& Tenants::GrantOf(const std::string& tenant) const {
  const auto found = grants_.tenants.find(tenant);
  return found == grants_.tenants.end() ? grants_.others : found->second;
}

MinuteLimits Tenants::MinuteOf(const std::string& tenant) const {
  absl::MutexLock lock(&mutex_);
  return GrantOf(tenant).minute;
}

absl::StatusOr<TenantTerms> Tenants::TermsOf(const std::string& tenant,
                                             std::optional<PriorityClass> asked) const {
  absl::MutexLock lock(&mutex_);
  const TenantGrant& grant = GrantOf(tenant);
  const auto may_use = [&grant](PriorityClass c) { return grant.may_use[static_cast<int>(c)]; };
  TenantTerms terms;
  terms.weight_milli = grant.weight_milli;
  terms.minute = grant.minute;
  terms.priority_class = asked.value_or(PriorityClass::kStandard);
  for (int i = 0; !asked.has_value() && !may_use(terms.priority_class); ++i) {
    terms.priority_class = static_cast<PriorityClass>(i);
  }
  if (may_use(terms.priority_class)) return terms;
  std::string allowed;
  for (int i = 0; i < kPriorityClasses; ++i) {
    if (grant.may_use[i]) absl::StrAppend(&allowed, allowed.empty() ? "" : ", ", kClassNames[i]);
  }
  Refusal refusal = Because(reason::kClassNotAllowed,
                            {{"class", NameOf(terms.priority_class)}, {"classes", allowed}});
  refusal.tenant = tenant;
  return RefusalStatus(
      absl::StatusCode::kPermissionDenied,
      absl::StrCat("priority_class is ", NameOf(terms.priority_class), "; this tenant may use ",
                   allowed, "; ask for one of these, or for none"),
      refusal);
}

}  // namespace tuppence
