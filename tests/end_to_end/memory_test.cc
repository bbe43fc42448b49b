// Memory at rest: thousands of requests leave no more behind than the first few did.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <thread>

#include "tests/end_to_end/service_process.h"

namespace tuppence {
namespace {

constexpr int kCallers = 4;
constexpr int kWarmUpRequests = 400;  // of each caller
constexpr int kRequests = 1000;       // of each caller
constexpr int64_t kGrowthBytesMax = 2 << 20;

int64_t ResidentBytes(pid_t pid) {
  const std::string status = ReadFile("/proc/" + std::to_string(pid) + "/status");
  const size_t at = status.find("VmRSS:");
  return at == std::string::npos ? 0 : std::atoll(status.c_str() + at + 6) * 1024;
}

v1::GenerateRequest ShortRequest() {
  v1::GenerateRequest request;
  for (int id = 300; id < 364; ++id) request.mutable_token_ids()->add_ids(id);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_max_tokens(8);
  request.mutable_sampling()->set_ignore_eos(true);
  request.mutable_output()->set_no_text(true);
  return request;
}

// From several callers at a time; returns how many were answered.
int64_t AskAll(const ServiceProcess& service, int requests) {
  std::vector<std::thread> callers;
  std::atomic<int64_t> answered = 0;
  for (int i = 0; i < kCallers; ++i) {
    callers.emplace_back([&] {
      const std::unique_ptr<Client> client = service.MakeClient();
      const v1::GenerateRequest request = ShortRequest();
      for (int j = 0; j < requests; ++j) answered += Ask(client.get(), request).status.ok();
    });
  }
  for (std::thread& caller : callers) caller.join();
  return answered;
}

TEST(MemoryTest, ThousandsOfRequestsLeaveNothingBehind) {
  ServiceProcess service("null", {"--queue-requests-max", "64"});
  ASSERT_TRUE(service.ready()) << service.Story();
  ASSERT_EQ(AskAll(service, kWarmUpRequests), kCallers * kWarmUpRequests);
  const int64_t before = ResidentBytes(service.server_pid());
  ASSERT_EQ(AskAll(service, kRequests), kCallers * kRequests);
  const int64_t after = ResidentBytes(service.server_pid());
  ASSERT_GT(before, 0);
  // Malloc arenas of gRPC's threads still fill a little; a leak of one small request (1 KiB) in
  // each of the 4,000 would be twice what is allowed.
  EXPECT_LT(after - before, kGrowthBytesMax) << before << " bytes before, " << after << " after";
  RecordProperty("growth_bytes", static_cast<int>(after - before));
}

}  // namespace
}  // namespace tuppence
