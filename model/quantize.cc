// See quantize.h.
#include "model/quantize.h"

#include <algorithm>

#include "model/check.h"

namespace tuppence {

void QuantiseRows(const float* values, int64_t rows, int64_t cols, const WeightFormat& format,
                  int8_t* codes, uint16_t* scales) {
  CHECK(format.quantised());
  CHECK_GT(format.group, 0);
  const int32_t code_max = format.type == WeightType::kInt8 ? kInt8CodeMax : kInt4CodeMax;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; col += format.group) {
      const int64_t count = std::min<int64_t>(format.group, cols - col);
      *scales++ =
          QuantiseGroup(values + row * cols + col, count, code_max, codes + row * cols + col);
    }
  }
}

void DequantiseRows(const int8_t* codes, const uint16_t* scales, int64_t rows, int64_t cols,
                    const WeightFormat& format, float* values) {
  CHECK(format.quantised());
  CHECK_GT(format.group, 0);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; ++col) {
      const uint16_t scale = scales[row * GroupsOf(cols, format.group) + col / format.group];
      values[row * cols + col] = static_cast<float>(codes[row * cols + col]) * ToFloat(F16{scale});
    }
  }
}

}  // namespace tuppence
