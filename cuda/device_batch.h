// DeviceBatch: the arrays of a step in device memory, and who does what in attention. Written once
// a step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "cuda/step_upload.h"
#include "model/batch.h"

namespace tuppence::TUPPENCE_DEVICE {

constexpr int32_t kQueryTile = 64;  // positions of one block of prefill attention

// Tokens of one entry whose positions lie in one tile [64 i, 64 i + 64).
struct PrefillItem {
  int32_t entry = 0;
  int32_t first_token = 0;
  int32_t count = 0;
};

// One token of a decode entry.
struct DecodeRow {
  int32_t entry = 0;
  int32_t token = 0;
};

class DeviceBatch {
 public:
  // At most, of the arrays of a step.
  static size_t BytesOf(const Batch& host);
  void Write(const Batch& host, StepUpload& upload);

  const Batch& batch() const { return device_; }  // spans of device memory
  std::span<const PrefillItem> prefill_items() const { return prefill_items_; }  // device memory
  std::span<const DecodeRow> decode_rows() const { return decode_rows_; }        // device memory
  int32_t decode_keys_max() const { return decode_keys_max_; }

 private:
  void Plan(const Batch& host, PrefillItem* items, DecodeRow* rows);

  Batch device_;
  std::span<const PrefillItem> prefill_items_;
  std::span<const DecodeRow> decode_rows_;
  size_t prefill_count_ = 0;
  size_t decode_count_ = 0;
  int32_t decode_keys_max_ = 0;
};

}  // namespace tuppence::TUPPENCE_DEVICE
