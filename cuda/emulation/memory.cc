#include "cuda/emulation/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>

namespace tuppence::emulation {
namespace {

struct Mapping {
  std::byte* pages;
  size_t page_bytes;  // guard pages included
  size_t bytes;
};

size_t PageBytes() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

std::mutex& Lock() {
  static std::mutex lock;
  return lock;
}

// By address of the memory handed out. Never destroyed: buffers may outlive statics.
std::map<const std::byte*, Mapping>& Mappings() {
  static auto* const mappings = new std::map<const std::byte*, Mapping>();
  return *mappings;
}

}  // namespace

void* AllocateGuarded(size_t bytes) {
  const size_t page = PageBytes();
  const size_t used = (bytes + 15) / 16 * 16;
  const size_t middle = (used + page - 1) / page * page;
  const size_t total = middle + 2 * page;
  void* const pages = mmap(nullptr, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return nullptr;
  std::byte* const first = static_cast<std::byte*>(pages) + page;
  if (middle > 0 && mprotect(first, middle, PROT_READ | PROT_WRITE) != 0) {
    munmap(pages, total);
    return nullptr;
  }
  std::byte* const memory = first + (middle - used);
  std::memset(memory, 0xff, used);
  const std::lock_guard<std::mutex> hold(Lock());
  Mappings()[memory] = {static_cast<std::byte*>(pages), total, bytes};
  return memory;
}

void FreeGuarded(void* memory) {
  if (memory == nullptr) return;
  const std::lock_guard<std::mutex> hold(Lock());
  const auto found = Mappings().find(static_cast<std::byte*>(memory));
  munmap(found->second.pages, found->second.page_bytes);
  Mappings().erase(found);
}

// Called from a signal handler of a process that is about to end: no lock.
const char* DescribeNear(const void* address) {
  static char text[128];
  text[0] = 0;
  const auto* const at = static_cast<const std::byte*>(address);
  for (const auto& [memory, mapping] : Mappings()) {
    if (at < mapping.pages || at >= mapping.pages + mapping.page_bytes) continue;
    if (at < memory) {
      std::snprintf(text, sizeof(text), "%zd bytes before an allocation of %zu bytes", memory - at,
                    mapping.bytes);
    } else {
      std::snprintf(text, sizeof(text), "byte %zd of an allocation of %zu bytes", at - memory,
                    mapping.bytes);
    }
    break;
  }
  return text;
}

}  // namespace tuppence::emulation
