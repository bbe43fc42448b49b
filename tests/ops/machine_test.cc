// What the backend finds out about its machine: kernel paths, threads, memory; and the thread pool.
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "cpu/cpu_backend.h"
#include "cpu/cpu_resources.h"
#include "cpu/kernel_paths.h"
#include "cpu/thread_pool.h"

namespace tuppence::testing {
namespace {

CpuFeatures Machine(const std::string& vendor, int family, bool avx512_bf16, bool amx) {
  CpuFeatures features;
  features.vendor = vendor;
  features.family = family;
  features.avx2 = features.avx512 = features.avx512_vnni = true;
  features.avx512_bf16 = avx512_bf16;
  features.amx_bf16 = amx;
  return features;
}

TEST(KernelPathsTest, TableChoosesWhatWasMeasuredFastest) {
  const auto chosen = [](const CpuFeatures& features) {
    return ChooseKernelPath(KernelPath::kAuto, features)->path;
  };
  EXPECT_EQ(chosen(Machine("GenuineIntel", 6, true, true)), KernelPath::kAmx);
  // Cooper Lake's vdpbf16ps is slower than its f32.
  EXPECT_EQ(chosen(Machine("GenuineIntel", 6, true, false)), KernelPath::kAvx512);
  EXPECT_EQ(chosen(Machine("AuthenticAMD", 0x1a, true, false)), KernelPath::kAvx512Bf16);
  EXPECT_EQ(chosen(Machine("SomeoneElse", 1, true, true)), KernelPath::kAvx512);
  CpuFeatures old;
  old.avx2 = true;
  EXPECT_EQ(chosen(old), KernelPath::kAvx2);
  EXPECT_EQ(chosen(CpuFeatures()), KernelPath::kPlain);
}

TEST(KernelPathsTest, MissingPathIsRefusedWithWhatTheMachineHas) {
  CpuFeatures old;
  old.avx2 = true;
  const auto choice = ChooseKernelPath(KernelPath::kAmx, old);
  ASSERT_EQ(choice.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(choice.status().message(),
            "this machine does not have the kernel path \"amx\"; it has plain, avx2; choose one of "
            "these or \"auto\"");
  EXPECT_EQ(ChooseKernelPath(KernelPath::kPlain, old)->path, KernelPath::kPlain);
}

TEST(KernelPathsTest, NamesParseAndUnknownOnesAreRefused) {
  for (const char* name : {"auto", "plain", "avx2", "avx512", "avx512bf16", "amx"}) {
    const auto path = ParseKernelPath(name);
    ASSERT_TRUE(path.ok());
    EXPECT_EQ(NameOf(*path), name);
  }
  EXPECT_EQ(ParseKernelPath("sse").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(CpuBackendTest, RefusesImpossibleThreadsAndMoreMemoryThanThereIs) {
  EXPECT_FALSE(MakeCpuBackend({-1, KernelPath::kPlain}).ok());
  EXPECT_FALSE(MakeCpuBackend({5000, KernelPath::kPlain}).ok());
  const auto backend = MakeCpuBackend({1, KernelPath::kPlain});
  ASSERT_TRUE(backend.ok());
  const auto buffer = (*backend)->Allocate(size_t{1} << 50);
  ASSERT_EQ(buffer.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(std::string(buffer.status().message()).find("1125899906842624"), std::string::npos);
}

TEST(CpuBackendTest, AllocatedMemoryIsZeroed) {
  const auto backend = MakeCpuBackend({2, KernelPath::kPlain});
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{5000}, size_t{5} << 20}) {
    const auto buffer = (*backend)->Allocate(bytes);
    ASSERT_TRUE(buffer.ok());
    EXPECT_EQ((*buffer)->bytes(), bytes);
    const auto* const data = static_cast<const char*>((*buffer)->data());
    for (size_t i = 0; i < bytes; ++i) ASSERT_EQ(data[i], 0);
  }
}

// A made /proc and /sys/fs/cgroup.
class CpuResourcesTest : public ::testing::Test {
 protected:
  CpuResourcesTest() {
    root_ = std::filesystem::path(::testing::TempDir()) /
            ("resources_" +
             std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    std::filesystem::remove_all(root_);
    roots.proc = (root_ / "proc").string();
    roots.cgroup = (root_ / "cgroup").string();
    Write("proc/meminfo", "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable:  800 kB\n");
  }
  ~CpuResourcesTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }

  ResourceRoots roots;

 private:
  std::filesystem::path root_;
};

TEST_F(CpuResourcesTest, WithoutGroupsTheMachineIsTheLimit) {
  const CpuResources found = FindCpuResources(roots);
  EXPECT_EQ(found.quota_cores, 0);
  EXPECT_EQ(found.threads, std::min(found.cores, found.affinity_cores));
  EXPECT_EQ(found.cgroup_memory_bytes, kNoLimit);
  EXPECT_EQ(found.memory_limit_bytes, 1000 * 1024);
  EXPECT_EQ(found.memory_available_bytes, 800 * 1024);
}

TEST_F(CpuResourcesTest, QuotaOfVersion2IsTheSmallestOnTheWayUpAndRoundsDown) {
  Write("proc/self/cgroup", "0::/a/b\n");
  Write("cgroup/a/b/cpu.max", "max 100000\n");
  Write("cgroup/a/cpu.max", "190000 100000\n");
  Write("cgroup/cpu.max", "800000 100000\n");
  EXPECT_DOUBLE_EQ(CgroupQuotaCores(roots), 1.9);
  EXPECT_EQ(FindCpuResources(roots).threads, 1);
  Write("cgroup/a/cpu.max", "30000 100000\n");
  EXPECT_EQ(FindCpuResources(roots).threads, 1);  // at least one
}

TEST_F(CpuResourcesTest, QuotaOfVersion1IsRead) {
  Write("proc/self/cgroup", "5:cpu,cpuacct:/x\n3:memory:/x\n");
  Write("cgroup/cpu/x/cpu.cfs_quota_us", "250000\n");
  Write("cgroup/cpu/x/cpu.cfs_period_us", "100000\n");
  Write("cgroup/cpu/cpu.cfs_quota_us", "-1\n");
  Write("cgroup/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_DOUBLE_EQ(CgroupQuotaCores(roots), 2.5);
}

TEST_F(CpuResourcesTest, MemoryOfVersion2CountsReclaimableFilePagesAsFree) {
  Write("proc/self/cgroup", "0::/a\n");
  Write("cgroup/a/memory.max", "409600\n");
  Write("cgroup/a/memory.current", "300000\n");
  Write("cgroup/a/memory.stat", "anon 100000\ninactive_file 150000\n");
  const CpuResources found = FindCpuResources(roots);
  EXPECT_EQ(found.cgroup_memory_bytes, 409600);
  EXPECT_EQ(found.memory_limit_bytes, 409600);
  EXPECT_EQ(found.memory_available_bytes, 409600 - 150000);
  EXPECT_NE(found.Describe().find("cgroup limit"), std::string::npos);
}

TEST_F(CpuResourcesTest, InsideAContainerTheMountItselfIsTheGroup) {
  Write("proc/self/cgroup", "0::/docker/0123456789\n");
  Write("cgroup/memory.max", "500000\n");
  Write("cgroup/memory.current", "1000\n");
  EXPECT_EQ(FindCpuResources(roots).memory_limit_bytes, 500000);
}

TEST_F(CpuResourcesTest, UnlimitedMemoryOfVersion1IsNoLimit) {
  Write("proc/self/cgroup", "3:memory:/\n");
  Write("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(FindCgroupMemory(roots).limit_bytes, kNoLimit);
  Write("cgroup/memory/memory.limit_in_bytes", "300000\n");
  EXPECT_EQ(FindCgroupMemory(roots).limit_bytes, 300000);
}

TEST(ThreadPoolTest, EveryChunkRunsOnceOnAnyNumberOfThreads) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    for (const int64_t chunks : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(chunks));
      for (int round = 0; round < 20; ++round) {
        pool.ParallelFor(chunks, [&](int64_t chunk, int thread) {
          ASSERT_GE(thread, 0);
          ASSERT_LT(thread, threads);
          ++runs[static_cast<size_t>(chunk)];
        });
      }
      for (const std::atomic<int>& count : runs) ASSERT_EQ(count.load(), 20);
    }
  }
}

TEST(ThreadPoolTest, ThreadNumbersAreNotSharedAtTheSameTime) {
  ThreadPool pool(4);
  std::vector<int> in_use(4, 0);  // not atomic: a data race if two bodies share a number
  for (int round = 0; round < 200; ++round) {
    pool.ParallelFor(64, [&](int64_t, int thread) { ++in_use[static_cast<size_t>(thread)]; });
  }
  EXPECT_EQ(in_use[0] + in_use[1] + in_use[2] + in_use[3], 200 * 64);
}

TEST(ThreadPoolTest, WritesOfBodiesAreVisibleToTheCaller) {
  ThreadPool pool(3);
  std::vector<int64_t> squares(500);
  for (int round = 0; round < 50; ++round) {
    pool.ParallelFor(500, [&](int64_t chunk, int) {
      squares[static_cast<size_t>(chunk)] = chunk * chunk + round;
    });
    for (int64_t i = 0; i < 500; ++i) ASSERT_EQ(squares[static_cast<size_t>(i)], i * i + round);
  }
}

}  // namespace
}  // namespace tuppence::testing
