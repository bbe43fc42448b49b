#include "cuda/step_upload.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tuppence::TUPPENCE_DEVICE {

StepUpload::~StepUpload() {
  if (memory_ != nullptr) gpu_.Free(memory_);
  if (pinned_ != nullptr) gpu_.FreePinned(pinned_);
}

absl::Status StepUpload::Begin(size_t bytes) {
  used_ = 0;
  if (bytes <= bytes_) return absl::OkStatus();
  const size_t wanted = std::max(bytes, 2 * bytes_);
  if (memory_ != nullptr) gpu_.Free(memory_);
  if (pinned_ != nullptr) gpu_.FreePinned(pinned_);
  bytes_ = 0;
  memory_ = static_cast<std::byte*>(gpu_.Allocate(wanted));
  pinned_ = static_cast<std::byte*>(gpu_.AllocatePinned(wanted));
  if (memory_ == nullptr || pinned_ == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no room for ", wanted, " bytes of a step's arrays"));
  }
  bytes_ = wanted;
  return absl::OkStatus();
}

}  // namespace tuppence::TUPPENCE_DEVICE
