// WeightSource: where a model's tensors come from, by name, read row range by row range.
// Implemented by the safetensors checkpoint and by synthetic weights; read by model/weights only.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "model/tensor.h"

namespace tuppence {

struct SourceTensor {
  std::string name;
  DType type = DType::kBf16;   // kF32, kBf16 or kF16
  std::vector<int64_t> shape;  // [rows, cols] or [rows]
  std::string file;            // for messages: the path of the file that holds it
};

class WeightSource {
 public:
  virtual ~WeightSource() = default;

  // Where the tensors are, for messages: a folder, or "synthetic weights".
  virtual std::string place() const = 0;

  // In no particular order; each name once.
  virtual const std::vector<SourceTensor>& tensors() const = 0;

  // Reads rows [first_row, first_row + rows) of tensors()[index], little-endian and contiguous,
  // into `out`. A file that became shorter since it was opened is an error.
  virtual absl::Status ReadRows(size_t index, int64_t first_row, int64_t rows, void* out) = 0;
};

}  // namespace tuppence
