#include "cpu/huge_buffer.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tuppence {

namespace {
constexpr size_t kPage = 4096;
constexpr size_t kHugePage = size_t{2} << 20;

size_t RoundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }
}  // namespace

HugeBuffer::~HugeBuffer() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

absl::StatusOr<HugeBuffer> HugeBuffer::Map(size_t bytes) {
  HugeBuffer buffer;
  if (bytes == 0) return buffer;
  const bool huge = bytes >= kHugePage;
  const size_t size = RoundUp(bytes, kPage);
  const size_t mapped = huge ? size + kHugePage : size;
  void* start = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the system refused ", bytes, " bytes of memory: ", std::strerror(errno),
                     "; free memory, raise this process's limit, or take smaller --weights or "
                     "--kv-memory"));
  }
  if (huge) {
    // Keep the aligned middle, give the ends back.
    const uintptr_t first = reinterpret_cast<uintptr_t>(start);
    const uintptr_t aligned = RoundUp(first, kHugePage);
    if (aligned > first) munmap(start, aligned - first);
    const size_t behind = first + mapped - (aligned + size);
    if (behind > 0) munmap(reinterpret_cast<void*>(aligned + size), behind);
    start = reinterpret_cast<void*>(aligned);
    madvise(start, size, MADV_HUGEPAGE);  // a wish: without it everything works, only slower
  }
  buffer.data_ = start;
  buffer.bytes_ = size;
  return buffer;
}

}  // namespace tuppence
