// Memory of the emulated GPU: an allocation ends, to within 16 bytes, at a page that nobody may
// touch, and starts at one. So a kernel that reads or writes out of bounds stops at once.
#pragma once

#include <cstddef>

namespace tuppence::emulation {

// Poisoned: bytes 0xff. nullptr when there is no memory.
void* AllocateGuarded(size_t bytes);
void FreeGuarded(void* memory);

// "12 bytes beyond an allocation of 4096 bytes", or "" where no allocation is near. For reports.
const char* DescribeNear(const void* address);

}  // namespace tuppence::emulation
