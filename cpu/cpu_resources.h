// How many threads and how much memory this process may use: the smallest of what the machine, the
// affinity mask and the control groups (v1 and v2) allow. Read once at start-up, which prints it.
#pragma once

#include <cstdint>
#include <string>

namespace tuppence {

// Where the system describes itself; tests point them at made folders.
struct ResourceRoots {
  std::string proc = "/proc";
  std::string cgroup = "/sys/fs/cgroup";
};

constexpr int64_t kNoLimit = -1;

struct CpuResources {
  int cores = 1;                     // online
  int affinity_cores = 1;            // in this thread's affinity mask
  double quota_cores = 0;            // of the control group; 0: none
  int threads = 1;                   // the smallest, the quota rounded down, at least 1
  int64_t machine_memory_bytes = 0;  // MemTotal
  int64_t cgroup_memory_bytes = kNoLimit;
  int64_t memory_limit_bytes = 0;      // the smaller of the two
  int64_t memory_available_bytes = 0;  // of the limit, what nobody holds now

  // "2 threads (2 cores, affinity 2, no CPU quota); memory 23.4 GiB of 23.5 GiB available (...)"
  std::string Describe() const;
};

CpuResources FindCpuResources(const ResourceRoots& roots = {});

// The limits alone, for tests: 0 and kNoLimit where there is none.
double CgroupQuotaCores(const ResourceRoots& roots);
struct CgroupMemory {
  int64_t limit_bytes = kNoLimit;  // the smallest of the group and its parents
  int64_t used_bytes = 0;          // of that group, less the file pages that it can drop
};
CgroupMemory FindCgroupMemory(const ResourceRoots& roots);

}  // namespace tuppence
