#include "scheduler/prefix_cache.h"

#include <algorithm>

#include "model/check.h"

namespace tuppence {

PrefixCache::PrefixCache(int32_t block_tokens, BlockPool* pool)
    : block_tokens_(block_tokens),
      pool_(pool),
      entries_(pool->blocks_total()),
      tokens_(size_t{1} * pool->blocks_total() * block_tokens) {
  blocks_.reserve(2 * entries_.size());  // one key for each block; erased ones take room for a time
}

void PrefixCache::Find(const PrefixView& prompt, int32_t blocks_max,
                       std::vector<int32_t>* blocks) const {
  blocks->clear();
  const int32_t count = std::min(blocks_max, static_cast<int32_t>(prompt.keys.size()));
  for (int32_t i = 0; i < count; ++i) {
    const int32_t block = BlockOf(prompt, i);
    if (block < 0) return;
    blocks->push_back(block);
  }
}

void PrefixCache::Insert(const PrefixView& prompt, std::span<const int32_t> blocks) {
  const int32_t count = static_cast<int32_t>(prompt.keys.size());
  CHECK_LE(count, static_cast<int32_t>(blocks.size()));
  for (int32_t i = 0; i < count; ++i) {
    if (BlockOf(prompt, i) >= 0) continue;
    const int32_t block = blocks[i];
    pool_->Keep(block);
    if (!pool_->kept(block)) return;  // tainted, and what follows builds on it
    Entry& entry = entries_[block];
    if (entry.listed) blocks_.erase(entry.key);
    // A key whose block is no longer kept names this one from now on.
    const auto [place, is_new] = blocks_.try_emplace(prompt.keys[i], block);
    if (!is_new) {
      entries_[place->second].listed = false;
      place->second = block;
    }
    entry = {.key = prompt.keys[i],
             .parent = i > 0 ? prompt.keys[i - 1] : PrefixKey(),
             .tenant = prompt.tenant,
             .regime = prompt.regime,
             .listed = true};
    const std::span<const int32_t> tokens = TokensOf(prompt, i);
    std::copy(tokens.begin(), tokens.end(),
              tokens_.begin() + static_cast<ptrdiff_t>(block) * block_tokens_);
  }
}

// -1: none.
int32_t PrefixCache::BlockOf(const PrefixView& prompt, int32_t index) const {
  const auto found = blocks_.find(prompt.keys[index]);
  if (found == blocks_.end() || !Holds(found->second, prompt, index)) return -1;
  return found->second;
}

bool PrefixCache::Holds(int32_t block, const PrefixView& prompt, int32_t index) const {
  const Entry& entry = entries_[block];
  const std::span<const int32_t> tokens = TokensOf(prompt, index);
  return pool_->kept(block) && entry.key == prompt.keys[index] && entry.tenant == prompt.tenant &&
         entry.regime == prompt.regime &&
         entry.parent == (index > 0 ? prompt.keys[index - 1] : PrefixKey()) &&
         std::equal(tokens.begin(), tokens.end(),
                    tokens_.begin() + static_cast<ptrdiff_t>(block) * block_tokens_);
}

}  // namespace tuppence
