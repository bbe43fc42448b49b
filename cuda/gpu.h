// Gpu: one device: its limits, its memory, its one stream, and the first failure, which stays.
// Two implementations: gpu.cu on CUDA's runtime, emulation/gpu.cc on the host's memory.
// Used by the backend and, through Launch, by every launcher. Thread: one at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cuda/namespace.h"

namespace tuppence::TUPPENCE_DEVICE {

class Gpu {
 public:
  struct Facts {
    std::string name;
    std::string pci_bus_id;
    int arch = 0;  // 75, 80, 86, 89, 90
    int multiprocessors = 0;
    int64_t memory_bytes = 0;
    int64_t memory_free_bytes = 0;
  };

  // Device 0. FAILED_PRECONDITION when there is none, or one that is too old, or the driver is.
  // force_arch (0: the device's own): dispatch by that architecture's limits; emulation takes any.
  static absl::StatusOr<std::unique_ptr<Gpu>> Open(int force_arch);
  ~Gpu();
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;

  const Facts& facts() const { return facts_; }
  int arch() const { return facts_.arch; }
  void* stream() const { return stream_; }
  int64_t FreeBytes() const;

  // nullptr when there is no room. Contents are undefined.
  void* Allocate(size_t bytes);
  void Free(void* device);
  // Host memory that copies run from at full speed; nullptr when there is no room.
  void* AllocatePinned(size_t bytes);
  void FreePinned(void* host);

  // Enqueued in order; host memory must stay as it is until Synchronize, and be pinned to overlap.
  void CopyIn(const void* host, size_t bytes, void* device);
  void CopyOut(const void* device, size_t bytes, void* host);
  void Zero(void* device, size_t bytes);

  // Waits for all that is enqueued. The first failure ever, UNAVAILABLE with what was being done:
  // after one, a CUDA context answers nothing any more.
  absl::Status Synchronize();
  // Latches a failure; `code` is a cudaError_t.
  void Check(int code, const char* what);

 private:
  Gpu() = default;

  Facts facts_;
  void* stream_ = nullptr;
  absl::Status failure_;
};

}  // namespace tuppence::TUPPENCE_DEVICE
