// What the CUDA backend needs of the machine, and how it says no. Asked by Gpu::Open, which finds
// out; here, apart from CUDA's runtime, so that tests can ask about machines that nobody has.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "cuda/namespace.h"

namespace tuppence::TUPPENCE_DEVICE {

// Versions of CUDA are as its runtime gives them: 1000 major + 10 minor.
struct FoundMachine {
  int driver = 0;             // the newest CUDA that the driver knows; 0: no driver
  int runtime = 0;            // that is linked
  int built_with = 0;         // whose headers the kernels were compiled against
  int devices = 0;            // that the runtime sees
  std::string devices_error;  // why none
  std::string device;         // name of the first
  int arch = 0;               // its compute capability, 10 major + minor
  int code_arch = 0;          // of the code that it would run; 0: the build has none for it
};

// FAILED_PRECONDITION with what was found, what is needed and the way out.
absl::Status CheckMachine(const FoundMachine& found);

}  // namespace tuppence::TUPPENCE_DEVICE
