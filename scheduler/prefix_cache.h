// PrefixCache: which block holds which piece of which prompt, so that a prompt which begins as an
// earlier one of its tenant did is computed from where they part. Used by the scheduler; the pool
// keeps the blocks. Thread: engine only.
//
// A block enters once its prompt is read to the end and the first token drawn from it was a number,
// and only if it is full of prompt positions: those take the prefill kernel, now and for whoever
// hits it, so that a hit changes no bit. What is found is verified against the tokens themselves.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "scheduler/block_pool.h"
#include "scheduler/prefix_key.h"

namespace tuppence {

// A prompt as the cache sees it.
struct PrefixView {
  std::span<const PrefixKey> keys;  // of its full blocks
  std::span<const int32_t> tokens;
  int64_t tenant = 0;
  RopeRegime regime = RopeRegime::kShort;
};

class PrefixCache {
 public:
  // pool outlives the cache.
  PrefixCache(int32_t block_tokens, BlockPool* pool);

  // The blocks that hold the prompt's first positions, as many as there are, at most blocks_max.
  // Valid until blocks are taken from the pool.
  void Find(const PrefixView& prompt, int32_t blocks_max, std::vector<int32_t>* blocks) const;
  // blocks[i], which somebody holds, has the positions of keys[i]. Those that are known stay.
  void Insert(const PrefixView& prompt, std::span<const int32_t> blocks);

 private:
  // What a block held when it was inserted. It still does while the pool keeps it.
  struct Entry {
    PrefixKey key = {};
    PrefixKey parent = {};
    int64_t tenant = 0;
    RopeRegime regime = RopeRegime::kShort;
    bool listed = false;  // blocks_ has its key
  };
  // The first bytes of a hash are one.
  struct KeyHash {
    size_t operator()(const PrefixKey& key) const {
      size_t hash = 0;
      std::memcpy(&hash, key.data(), sizeof(hash));
      return hash;
    }
  };

  int32_t BlockOf(const PrefixView& prompt, int32_t index) const;
  bool Holds(int32_t block, const PrefixView& prompt, int32_t index) const;
  std::span<const int32_t> TokensOf(const PrefixView& prompt, int32_t index) const {
    return prompt.tokens.subspan(static_cast<size_t>(index) * block_tokens_, block_tokens_);
  }

  const int32_t block_tokens_;
  BlockPool* const pool_;
  std::vector<Entry> entries_;   // [blocks]
  std::vector<int32_t> tokens_;  // [blocks, block_tokens]
  absl::flat_hash_map<PrefixKey, int32_t, KeyHash> blocks_;
};

}  // namespace tuppence
