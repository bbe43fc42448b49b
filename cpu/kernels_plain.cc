// The kernel table of the plain path: right on every machine, and the truth for the others.
#include "cpu/kernels_table.h"

namespace tuppence {

Kernels KernelsPlain() { return plain::MakeTable(KernelPath::kPlain); }

}  // namespace tuppence
