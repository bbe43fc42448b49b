// Huge pages for memory that a container holds: a megabyte of text takes 30 MiB to merge, and a
// third of the time went into the system's handing it out in pages of 4 KiB. Used by the tokenizer;
// the backends' buffers have cpu/huge_buffer.h.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

namespace tuppence {

// A wish for what lies within [start, start + bytes): without it everything works, only slower.
inline void WishForHugePages(void* start, size_t bytes) {
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(start) + kHugePage - 1) & ~(kHugePage - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(start) + bytes) & ~(kHugePage - 1);
  if (first < end) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
}

}  // namespace tuppence
