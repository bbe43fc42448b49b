// What the GPU benchmarks ask of a device beyond the ops of Backend: its copy rate, and weights
// made on it in a time that does not grow with what a host can pack. Used by gpu_bench and
// gpu_steps.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "model/backend.h"

namespace tuppence {

// Enqueues a copy between two places in the memory of `backend`; on the emulated GPU, makes it.
absl::Status CopyOnDevice(const Backend& backend, void* to, const void* from, size_t bytes);

// Fills memory with pseudo-random 16-bit numbers between 2^-7 and 2: zeros would spare a device
// power and let it run faster than it does.
absl::Status FillOnDevice(const Backend& backend, void* data, size_t bytes);
absl::Status FillOnDevice(const Backend& backend, const Matrix& matrix);

// Waits for all that is enqueued.
absl::Status WaitForDevice(const Backend& backend);

// Copies the first `rows` rows of `matrix`, of a paired one those of gate and of up, over all
// others; a multiple of 16. `backend` made it; on the emulated GPU the others stay zeros, as times
// mean nothing there.
absl::Status RepeatRows(const Backend& backend, const Matrix& matrix, int64_t rows);

}  // namespace tuppence
