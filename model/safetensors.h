// Safetensors: one file of tensors. Layout: 8 bytes, little-endian: the header's length; the
// header, a JSON object from tensor name to {dtype, shape, data_offsets}; the data, without a gap.
// Used by model/checkpoint. Every rule of the format is checked when the file is opened, so that a
// tensor's bytes can only be what its shape says. Rows are read with pread; nothing is mapped.
// Source: github.com/huggingface/safetensors, README "Format" and the validation in tensor.rs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/file.h"
#include "model/weight_source.h"

namespace tuppence {

constexpr int64_t kSafetensorsHeaderBytesMax = 100'000'000;  // as in the published reader

class SafetensorsFile {
 public:
  // Errors name the file, the tensor and the reason.
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const std::vector<SourceTensor>& tensors() const { return tensors_; }  // by offset

  // See WeightSource::ReadRows.
  absl::Status ReadRows(size_t index, int64_t first_row, int64_t rows, void* out) const;

 private:
  explicit SafetensorsFile(File file) : file_(std::move(file)) {}

  File file_;
  std::vector<SourceTensor> tensors_;
  std::vector<int64_t> offsets_;  // of each tensor's first byte in the file
};

}  // namespace tuppence
