#include "cuda/device_batch.h"

#include <algorithm>

namespace tuppence::TUPPENCE_DEVICE {

// Every prefill entry in tiles of absolute positions, every decode token for itself. The last tiles
// of a prompt see the most keys, so they come first.
void DeviceBatch::Plan(const Batch& host, PrefillItem* items, DecodeRow* rows) {
  prefill_count_ = decode_count_ = 0;
  decode_keys_max_ = 0;
  for (int32_t entry = host.entries() - 1; entry >= 0; --entry) {
    const int32_t first = host.entry_starts[entry];
    int32_t last = host.entry_starts[entry + 1];
    if (host.entry_phases[entry] == Phase::kDecode) {
      for (int32_t token = first; token < last; ++token) {
        rows[decode_count_++] = {entry, token};
        decode_keys_max_ = std::max(decode_keys_max_, host.positions[token] + 1);
      }
      continue;
    }
    while (last > first) {
      const int32_t in_tile = host.positions[last - 1] % kQueryTile + 1;
      const int32_t start = std::max(first, last - in_tile);
      items[prefill_count_++] = {entry, start, last - start};
      last = start;
    }
  }
}

// One item for each token at most, of either kind.
size_t DeviceBatch::BytesOf(const Batch& host) {
  const size_t tokens = host.token_ids.size();
  size_t bytes = StepUpload::Aligned(tokens * sizeof(PrefillItem)) +
                 StepUpload::Aligned(tokens * sizeof(DecodeRow));
  for (const size_t array :
       {host.token_ids.size_bytes(), host.positions.size_bytes(), host.regimes.size_bytes(),
        host.slots.size_bytes(), host.entry_starts.size_bytes(), host.entry_phases.size_bytes(),
        host.block_tables.size_bytes(), host.logit_tokens.size_bytes()}) {
    bytes += StepUpload::Aligned(array);
  }
  return bytes;
}

void DeviceBatch::Write(const Batch& host, StepUpload& upload) {
  upload.Add(host.token_ids, &device_.token_ids);
  upload.Add(host.positions, &device_.positions);
  upload.Add(host.regimes, &device_.regimes);
  upload.Add(host.slots, &device_.slots);
  upload.Add(host.entry_starts, &device_.entry_starts);
  upload.Add(host.entry_phases, &device_.entry_phases);
  upload.Add(host.block_tables, &device_.block_tables);
  upload.Add(host.logit_tokens, &device_.logit_tokens);
  device_.block_table_stride = host.block_table_stride;
  const size_t tokens = host.token_ids.size();
  PrefillItem* const items = upload.Take(tokens, &prefill_items_);
  DecodeRow* const rows = upload.Take(tokens, &decode_rows_);
  Plan(host, items, rows);
  prefill_items_ = prefill_items_.first(prefill_count_);
  decode_rows_ = decode_rows_.first(decode_count_);
}

}  // namespace tuppence::TUPPENCE_DEVICE
