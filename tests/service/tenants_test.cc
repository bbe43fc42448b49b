// What each tenant is granted: the file, what is said of a bad one, and what a call gets.
#include "service/tenants.h"

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "service/rpc_status.h"
#include "tests/service/service_harness.h"

namespace tuppence {
namespace {

using ::testing::HasSubstr;

constexpr TenantLimits kDefaults = {100, 1000};
constexpr char kFile[] = R"({
  "tenants": {"shop":  {"weight": 4, "classes": ["interactive", "standard"]},
              "crawl": {"weight": 0.5, "classes": ["batch"], "requests_max": 1}},
  "others": {"prompt_tokens_max": 500}})";

class TenantsTest : public ::testing::Test {
 protected:
  TenantsTest() : path_(testing::TempDir() + absl::StrCat("tenants_", getpid(), ".json")) {
    Write(kFile);
  }
  ~TenantsTest() override { std::filesystem::remove(path_); }
  void Write(const std::string& text) { std::ofstream(path_) << text; }

  const std::string path_;
  AdmissionControl admission_{AdmissionLimits{}};
};

TEST_F(TenantsTest, AnEntryLeavesOutWhatTheDefaultsSay) {
  const auto grants = TenantGrants::Parse(kFile, kDefaults);
  ASSERT_TRUE(grants.ok()) << grants.status();
  EXPECT_EQ(grants->tenants.at("shop").weight_milli, 4000);
  EXPECT_EQ(grants->tenants.at("shop").limits.requests_max, 100);
  EXPECT_EQ(grants->tenants.at("crawl").weight_milli, 500);
  EXPECT_EQ(grants->tenants.at("crawl").limits.requests_max, 1);
  EXPECT_EQ(grants->others.limits.prompt_tokens_max, 500);
  EXPECT_EQ(grants->others.weight_milli, 1000);
}

TEST_F(TenantsTest, RefusesWhatIsNotRightAndSaysWhere) {
  const std::pair<const char*, const char*> wrong[] = {
      {R"([])", "the file: must be an object"},
      {R"({"tenant": {}})", "\"tenant\" is not known here; there may be tenants, others"},
      {R"({"tenants": []})", "tenants: must be an object"},
      {R"({"tenants": {"a": {"weight": 0}}})", "tenants.a: weight is 0; a number from 0.001"},
      {R"({"tenants": {"a": {"weight": "4"}}})", "tenants.a: weight is \"4\""},
      {R"({"tenants": {"a": {"classes": []}}})", "tenants.a: classes is []; a list of one"},
      {R"({"others": {"classes": ["fast"]}})", "others: classes is [\"fast\"]"},
      {R"({"others": {"requests_max": -1}})", "others: requests_max is -1; a whole number"},
      {R"({"others": {"requests_max": 1.5}})", "requests_max is 1.5"},
      {R"({"others": {"wieght": 2}})", "\"wieght\" is not known"},
      {R"({"others": {"budget": 5}})", "others: budget is 5; an object as {\"usd\": 5"},
      {R"({"others": {"budget": {"usd": 5}}})", "budget is {\"usd\":5}"},
      {R"({"others": {"budget": {"usd": 0, "per": "day"}}})", "budget.usd is 0; a number from"},
      {R"({"others": {"budget": {"usd": 1, "per": "week"}}})", "budget.per is \"week\"; \"day\""},
      {R"({"others": {"budget": {"usd": 1, "per": "day", "x": 1}}})", "\"x\" is not known"},
  };
  for (const auto& [text, message] : wrong) {
    const auto grants = TenantGrants::Parse(text, kDefaults);
    ASSERT_FALSE(grants.ok()) << text;
    EXPECT_THAT(std::string(grants.status().message()), HasSubstr(message));
  }
}

TEST_F(TenantsTest, TheClassIsWhatWasAskedForOrTheFirstThatIsAllowed) {
  const auto tenants = Tenants::Open(path_, &admission_);
  ASSERT_TRUE(tenants.ok()) << tenants.status();
  EXPECT_EQ((*tenants)->TermsOf("shop", {})->priority_class, PriorityClass::kStandard);
  EXPECT_EQ((*tenants)->TermsOf("shop", PriorityClass::kInteractive)->weight_milli, 4000);
  EXPECT_EQ((*tenants)->TermsOf("crawl", {})->priority_class, PriorityClass::kBatch);
  EXPECT_EQ((*tenants)->TermsOf("anybody", {})->priority_class, PriorityClass::kStandard);
  const absl::Status refused = (*tenants)->TermsOf("crawl", PriorityClass::kInteractive).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(RefusalOf(refused)->reason, reason::kClassNotAllowed);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("this tenant may use batch"));
}

TEST_F(TenantsTest, AReloadHoldsFromNowOnAndABadFileChangesNothing) {
  const auto tenants = Tenants::Open(path_, &admission_);
  ASSERT_TRUE(tenants.ok()) << tenants.status();
  const auto held = admission_.Reserve("crawl", 1);
  EXPECT_FALSE(admission_.Reserve("crawl", 1).ok());
  EXPECT_FALSE(admission_.Reserve("anybody", 501).ok());
  Write("{");
  EXPECT_THAT(std::string((*tenants)->Reload().message()), HasSubstr(path_));
  EXPECT_FALSE(admission_.Reserve("crawl", 1).ok());
  Write(R"({"tenants": {"crawl": {"weight": 2}}})");
  ASSERT_TRUE((*tenants)->Reload().ok());
  EXPECT_TRUE(admission_.Reserve("crawl", 1).ok());
  EXPECT_EQ((*tenants)->TermsOf("crawl", PriorityClass::kInteractive)->weight_milli, 2000);
}

TEST_F(TenantsTest, ABudgetNeedsAStoreToBeKeptIn) {
  Write(R"({"tenants": {"shop": {"budget": {"usd": 2.5, "per": "month"}}, "free": {}},
            "others": {"budget": {"usd": 0.1, "per": "day"}}})");
  const absl::Status refused = Tenants::Open(path_, &admission_).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("--usage-store FILE"));
  Budgets budgets;
  const auto tenants = Tenants::Open(path_, &admission_, &budgets);
  ASSERT_TRUE(tenants.ok()) << tenants.status();
  EXPECT_TRUE(budgets.Has("shop"));
  EXPECT_TRUE(budgets.Has("anybody"));
  EXPECT_FALSE(budgets.Has("free"));
  const BudgetState state = budgets.States(0, 1)[0];
  EXPECT_EQ(state.tenant, "shop");
  EXPECT_EQ(state.budget.nanousd, 2'500'000'000);
  EXPECT_EQ(state.budget.per, BudgetSpan::kMonth);
  Write("{}");
  ASSERT_TRUE((*tenants)->Reload().ok());
  EXPECT_FALSE(budgets.any());
}

TEST_F(TenantsTest, WithoutAFileAllAreAlike) {
  const auto tenants = Tenants::Open("", &admission_);
  ASSERT_TRUE(tenants.ok());
  EXPECT_EQ((*tenants)->TermsOf("a", PriorityClass::kBatch)->weight_milli, 1000);
  EXPECT_EQ((*tenants)->Reload().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Tenants::Open("/no/such/file", &admission_).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(TenantsTest, ACallGetsItsClassOrHearsWhichItMayUse) {
  HarnessOptions options;
  options.limits.tenant_header = "x-tenant";
  options.tenants = path_;
  ServiceHarness service(options);
  v1::GenerateRequest request = ServiceHarness::GoodRequest();
  CallOptions as_crawl;
  as_crawl.metadata = {{"x-tenant", "crawl"}};
  request.set_priority_class(v1::PRIORITY_CLASS_BATCH);
  EXPECT_EQ(service.Generate(request, as_crawl)->Wait().code, kOk);
  request.set_priority_class(v1::PRIORITY_CLASS_INTERACTIVE);
  EXPECT_EQ(service.Generate(request)->Wait().code, kOk);
  const auto refused = service.Generate(request, as_crawl);
  EXPECT_EQ(refused->Wait().code, static_cast<int>(absl::StatusCode::kPermissionDenied));
  request.set_priority_class(static_cast<v1::PriorityClass>(9));
  const auto unknown = service.Generate(request);
  EXPECT_THAT(unknown->Wait().message, HasSubstr("priority_class is 9; allowed is 1"));
  service.ExpectUnharmed();
}

}  // namespace
}  // namespace tuppence
