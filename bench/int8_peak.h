// The arithmetic peak of this machine's cores in 8-bit integers: the widest dot product that it
// has, from registers, on every thread. What prefill is compared with. Used by op_bench.
#pragma once

#include <string>

namespace tuppence {

struct Int8Peak {
  double operations_per_second = 0;  // a multiplication and an addition are two
  std::string instruction;
};

// Takes about half a second. The best of several windows: on a shared machine the others only lower
// it. 0 where the machine has neither AMX, AVX-512 VNNI nor AVX2.
Int8Peak MeasureInt8Peak(int threads);

}  // namespace tuppence
