// KvCache: the pool of key and value pages, one KvLayer for each layer, in device memory taken once
// at start. Which block belongs to whom is scheduler/block_pool's business.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "model/backend.h"
#include "model/kv_layout.h"

namespace tuppence {

class KvCache {
 public:
  // Takes blocks * layout.bytes_per_block() bytes, zeroed: slots never written read as zeros, so a
  // masked slot can never bring in a NaN.
  static absl::StatusOr<KvCache> Make(const KvLayout& layout, int32_t blocks, Backend& backend);

  const KvLayout& layout() const { return layout_; }
  int32_t blocks() const { return blocks_; }
  int64_t bytes() const { return layout_.bytes_per_block() * blocks_; }
  const KvLayer& layer(int32_t index) const { return layers_[index]; }

 private:
  KvLayout layout_;
  int32_t blocks_ = 0;
  std::vector<KvLayer> layers_;
  std::vector<std::unique_ptr<Buffer>> buffers_;  // one for each layer
};

}  // namespace tuppence
