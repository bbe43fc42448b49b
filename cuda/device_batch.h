// DeviceBatch: the arrays of a step in device memory, and who does what in attention. Filled once a
// step by Upload, through one pinned buffer and one copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "cuda/gpu.h"
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
  explicit DeviceBatch(Gpu& gpu) : gpu_(gpu) {}
  ~DeviceBatch();
  DeviceBatch(const DeviceBatch&) = delete;
  DeviceBatch& operator=(const DeviceBatch&) = delete;

  // Requires: the copy of the last call has landed. Memory grows to the largest step and stays.
  // RESOURCE_EXHAUSTED when it cannot.
  absl::Status Upload(const Batch& host);

  const Batch& batch() const { return device_; }  // spans of device memory
  std::span<const PrefillItem> prefill_items() const { return prefill_items_; }  // device memory
  std::span<const DecodeRow> decode_rows() const { return decode_rows_; }        // device memory
  int32_t decode_keys_max() const { return decode_keys_max_; }

 private:
  absl::Status Reserve(size_t bytes);
  void Plan(const Batch& host, PrefillItem* items, DecodeRow* rows);

  Gpu& gpu_;
  std::byte* pinned_ = nullptr;
  std::byte* memory_ = nullptr;
  size_t bytes_ = 0;
  Batch device_;
  std::span<const PrefillItem> prefill_items_;
  std::span<const DecodeRow> decode_rows_;
  size_t prefill_count_ = 0;
  size_t decode_count_ = 0;
  int32_t decode_keys_max_ = 0;
};

}  // namespace tuppence::TUPPENCE_DEVICE
