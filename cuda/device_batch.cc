#include "cuda/device_batch.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace tuppence::TUPPENCE_DEVICE {

DeviceBatch::~DeviceBatch() {
  if (memory_ != nullptr) gpu_.Free(memory_);
  if (pinned_ != nullptr) gpu_.FreePinned(pinned_);
}

absl::Status DeviceBatch::Reserve(size_t bytes) {
  if (bytes <= bytes_) return absl::OkStatus();
  const size_t wanted = std::max(bytes, 2 * bytes_);
  if (memory_ != nullptr) gpu_.Free(memory_);
  if (pinned_ != nullptr) gpu_.FreePinned(pinned_);
  memory_ = static_cast<std::byte*>(gpu_.Allocate(wanted));
  pinned_ = static_cast<std::byte*>(gpu_.AllocatePinned(wanted));
  if (memory_ == nullptr || pinned_ == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no room for ", wanted, " bytes of a step's arrays"));
  }
  bytes_ = wanted;
  return absl::OkStatus();
}

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

absl::Status DeviceBatch::Upload(const Batch& host) {
  const size_t tokens = host.token_ids.size();
  size_t bytes = 0;
  // Two walks over the same list: the first counts, the second copies.
  const auto add = [&]<typename T>(std::span<const T> from, std::span<const T>& to, bool copy) {
    bytes = (bytes + 15) / 16 * 16;
    if (copy) {
      if (!from.empty()) std::memcpy(pinned_ + bytes, from.data(), from.size_bytes());
      to = {reinterpret_cast<const T*>(memory_ + bytes), from.size()};
    }
    bytes += from.size_bytes();
  };
  for (const bool copy : {false, true}) {
    bytes = 0;
    add(host.token_ids, device_.token_ids, copy);
    add(host.positions, device_.positions, copy);
    add(host.regimes, device_.regimes, copy);
    add(host.slots, device_.slots, copy);
    add(host.entry_starts, device_.entry_starts, copy);
    add(host.entry_phases, device_.entry_phases, copy);
    add(host.block_tables, device_.block_tables, copy);
    add(host.logit_tokens, device_.logit_tokens, copy);
    if (copy) break;
    // One item for each token at most, of either kind.
    const absl::Status room =
        Reserve(bytes + 32 + tokens * (sizeof(PrefillItem) + sizeof(DecodeRow)));
    if (!room.ok()) return room;
  }
  device_.block_table_stride = host.block_table_stride;
  bytes = (bytes + 15) / 16 * 16;
  const size_t items_at = bytes, rows_at = bytes + tokens * sizeof(PrefillItem);
  Plan(host, reinterpret_cast<PrefillItem*>(pinned_ + items_at),
       reinterpret_cast<DecodeRow*>(pinned_ + rows_at));
  prefill_items_ = {reinterpret_cast<const PrefillItem*>(memory_ + items_at), prefill_count_};
  decode_rows_ = {reinterpret_cast<const DecodeRow*>(memory_ + rows_at), decode_count_};
  gpu_.CopyIn(pinned_, rows_at + tokens * sizeof(DecodeRow), memory_);
  return absl::OkStatus();
}

}  // namespace tuppence::TUPPENCE_DEVICE
