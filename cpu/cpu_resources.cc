#include "cpu/cpu_resources.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace tuppence {

namespace {

constexpr int64_t kVastBytes = int64_t{1} << 60;  // v1 writes "no limit" as almost 2^63

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

bool ReadNumber(const std::string& path, int64_t& number) {
  return absl::SimpleAtoi(ReadFile(path), &number);
}

// The value of "Key:  123 kB" or "key 123" in a table of lines; 0 if absent.
int64_t FindField(const std::string& text, absl::string_view key) {
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<absl::string_view> words =
        absl::StrSplit(line, absl::ByAnyChar(" :\t"), absl::SkipEmpty());
    int64_t value = 0;
    if (words.size() >= 2 && words[0] == key && absl::SimpleAtoi(words[1], &value)) return value;
  }
  return 0;
}

// The folders of this process's group and its parents, the innermost first. Inside a container the
// path of /proc/self/cgroup may not exist below the mount: then the mount itself is the group.
std::vector<std::string> GroupFolders(const ResourceRoots& roots, absl::string_view controller) {
  std::string mount = roots.cgroup;
  std::string group;
  for (const absl::string_view line :
       absl::StrSplit(ReadFile(roots.proc + "/self/cgroup"), '\n', absl::SkipEmpty())) {
    const std::vector<absl::string_view> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const std::vector<absl::string_view> controllers = absl::StrSplit(parts[1], ',');
    const bool v1 = !controller.empty() && std::find(controllers.begin(), controllers.end(),
                                                     controller) != controllers.end();
    if (v1) mount = absl::StrCat(roots.cgroup, "/", controller);
    if (v1 || (controller.empty() && parts[1].empty())) group = std::string(parts[2]);
  }
  if (!controller.empty() && mount == roots.cgroup) {
    mount = absl::StrCat(roots.cgroup, "/", controller);
  }
  std::vector<std::string> folders;
  while (!group.empty() && group != "/") {
    folders.push_back(mount + group);
    group.resize(group.rfind('/'));
  }
  folders.push_back(mount);
  return folders;
}

void TakeSmaller(double quota, double& smallest) {
  if (quota > 0 && (smallest == 0 || quota < smallest)) smallest = quota;
}

void TakeSmaller(const CgroupMemory& memory, CgroupMemory& smallest) {
  if (memory.limit_bytes <= 0 || memory.limit_bytes >= kVastBytes) return;
  if (smallest.limit_bytes == kNoLimit || memory.limit_bytes < smallest.limit_bytes) {
    smallest = memory;
  }
}

std::string Gib(int64_t bytes) {
  return absl::StrFormat("%.1f GiB", static_cast<double>(bytes) / (int64_t{1} << 30));
}

}  // namespace

double CgroupQuotaCores(const ResourceRoots& roots) {
  double smallest = 0;
  for (const std::string& folder : GroupFolders(roots, "")) {
    const std::vector<std::string> words =
        absl::StrSplit(ReadFile(folder + "/cpu.max"), absl::ByAnyChar(" \n"), absl::SkipEmpty());
    int64_t quota = 0, period = 0;
    if (words.size() == 2 && absl::SimpleAtoi(words[0], &quota) &&
        absl::SimpleAtoi(words[1], &period) && period > 0) {
      TakeSmaller(static_cast<double>(quota) / static_cast<double>(period), smallest);
    }
  }
  for (const std::string& folder : GroupFolders(roots, "cpu")) {
    int64_t quota = 0, period = 0;
    if (ReadNumber(folder + "/cpu.cfs_quota_us", quota) &&
        ReadNumber(folder + "/cpu.cfs_period_us", period) && quota > 0 && period > 0) {
      TakeSmaller(static_cast<double>(quota) / static_cast<double>(period), smallest);
    }
  }
  return smallest;
}

CgroupMemory FindCgroupMemory(const ResourceRoots& roots) {
  CgroupMemory smallest;
  for (const std::string& folder : GroupFolders(roots, "")) {
    CgroupMemory memory;
    if (!ReadNumber(folder + "/memory.max", memory.limit_bytes)) continue;
    ReadNumber(folder + "/memory.current", memory.used_bytes);
    memory.used_bytes -= FindField(ReadFile(folder + "/memory.stat"), "inactive_file");
    TakeSmaller(memory, smallest);
  }
  for (const std::string& folder : GroupFolders(roots, "memory")) {
    CgroupMemory memory;
    if (!ReadNumber(folder + "/memory.limit_in_bytes", memory.limit_bytes)) continue;
    ReadNumber(folder + "/memory.usage_in_bytes", memory.used_bytes);
    memory.used_bytes -= FindField(ReadFile(folder + "/memory.stat"), "total_inactive_file");
    TakeSmaller(memory, smallest);
  }
  smallest.used_bytes = std::max<int64_t>(smallest.used_bytes, 0);
  return smallest;
}

CpuResources FindCpuResources(const ResourceRoots& roots) {
  CpuResources found;
  found.cores = std::max(1, static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)));
  found.affinity_cores = found.cores;
  cpu_set_t mask;
  CPU_ZERO(&mask);
  // More than 1,024 processors do not fit the mask; then the call fails and all cores count.
  if (sched_getaffinity(0, sizeof(mask), &mask) == 0) {
    found.affinity_cores = std::max(1, CPU_COUNT(&mask));
  }
  found.quota_cores = CgroupQuotaCores(roots);
  found.threads = std::min(found.cores, found.affinity_cores);
  if (found.quota_cores > 0) {
    found.threads = std::min(found.threads, std::max(1, static_cast<int>(found.quota_cores)));
  }
  const std::string meminfo = ReadFile(roots.proc + "/meminfo");
  found.machine_memory_bytes = FindField(meminfo, "MemTotal") * 1024;
  found.memory_limit_bytes = found.machine_memory_bytes;
  found.memory_available_bytes = FindField(meminfo, "MemAvailable") * 1024;
  const CgroupMemory group = FindCgroupMemory(roots);
  found.cgroup_memory_bytes = group.limit_bytes;
  if (group.limit_bytes != kNoLimit) {
    found.memory_limit_bytes = std::min(found.memory_limit_bytes, group.limit_bytes);
    found.memory_available_bytes = std::min(
        found.memory_available_bytes, std::max<int64_t>(0, group.limit_bytes - group.used_bytes));
  }
  return found;
}

std::string CpuResources::Describe() const {
  return absl::StrCat(
      threads, threads == 1 ? " thread (" : " threads (", cores, cores == 1 ? " core" : " cores",
      ", affinity ", affinity_cores, ", ",
      quota_cores > 0 ? absl::StrFormat("CPU quota %.2f", quota_cores) : "no CPU quota",
      "); memory ", Gib(memory_available_bytes), " available of ", Gib(memory_limit_bytes), " (",
      cgroup_memory_bytes == kNoLimit
          ? "no cgroup limit"
          : absl::StrCat("cgroup limit; the machine has ", Gib(machine_memory_bytes)),
      ")");
}

}  // namespace tuppence
