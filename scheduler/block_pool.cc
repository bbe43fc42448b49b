#include "scheduler/block_pool.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "model/check.h"

namespace tuppence {

BlockLease::BlockLease(BlockLease&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)), blocks_(std::move(other.blocks_)) {
  other.blocks_.clear();
}

BlockLease& BlockLease::operator=(BlockLease&& other) noexcept {
  if (this == &other) return *this;
  Clear();
  pool_ = std::exchange(other.pool_, nullptr);
  blocks_ = std::move(other.blocks_);
  other.blocks_.clear();
  return *this;
}

void BlockLease::Clear() {
  std::for_each(blocks_.rbegin(), blocks_.rend(),
                [this](int32_t block) { pool_->Drop(block, /*tainted=*/false); });
  blocks_.clear();
}

void BlockLease::ClearTainted() {
  for (const int32_t block : blocks_) pool_->Drop(block, /*tainted=*/true);
  blocks_.clear();
}

BlockPool::BlockPool(int32_t blocks, int32_t tenant_floor)
    : tenant_floor_(tenant_floor),
      references_(blocks, 0),
      tenants_(blocks, kNobody),
      zero_listed_(blocks, false),
      kept_(blocks, false),
      before_(blocks, -1),
      after_(blocks, -1),
      let_go_(blocks, 0) {
  CHECK_GT(blocks, 0);
  free_.reserve(blocks);
  zero_.reserve(blocks);
  for (int32_t block = blocks - 1; block >= 0; --block) free_.push_back(block);
}

bool BlockPool::TryTake(int32_t count, int64_t tenant, BlockLease* lease) {
  CHECK_GE(count, 0);
  CHECK_GE(tenant, 0);
  if (count > blocks_free()) return false;
  CHECK(lease->pool_ == nullptr || lease->pool_ == this);
  lease->pool_ = this;
  for (int32_t i = 0; i < count; ++i) lease->blocks_.push_back(Take(tenant));
  return true;
}

void BlockPool::Share(const BlockLease& from, int32_t count, BlockLease* to) {
  CHECK(to->empty());
  CHECK_LE(count, from.size());
  to->pool_ = this;
  for (int32_t i = 0; i < count; ++i) {
    ++references_[from.blocks_[i]];
    to->blocks_.push_back(from.blocks_[i]);
  }
}

bool BlockPool::TryMakeOwn(int32_t index, int64_t tenant, BlockLease* lease, int32_t* copy_from,
                           int32_t* copy_to) {
  if (blocks_free() == 0) return false;
  *copy_from = lease->blocks_[index];
  CHECK_GT(references_[*copy_from], 1);
  *copy_to = Take(tenant);
  Drop(*copy_from, /*tainted=*/false);
  lease->blocks_[index] = *copy_to;
  return true;
}

void BlockPool::TakeZeroWork(std::vector<int32_t>* blocks) {
  for (const int32_t block : zero_) {
    zero_listed_[block] = false;
    blocks->push_back(block);
  }
  zero_.clear();
}

int32_t BlockPool::Take(int64_t tenant) {
  int32_t block = -1;
  if (free_.empty()) {
    block = Evict(tenant);
  } else {
    block = free_.back();
    free_.pop_back();
  }
  CHECK_EQ(references_[block], 0);
  references_[block] = 1;
  if (tenants_[block] != tenant && tenants_[block] != kNobody && !zero_listed_[block]) {
    zero_listed_[block] = true;
    zero_.push_back(block);
  }
  tenants_[block] = tenant;
  return block;
}

void BlockPool::Drop(int32_t block, bool tainted) {
  CHECK_GT(references_[block], 0);
  if (tainted) {
    tenants_[block] = kTainted;
    kept_[block] = false;
  }
  if (--references_[block] > 0) return;
  if (kept_[block]) {
    Append(block);
  } else {
    free_.push_back(block);
  }
}

void BlockPool::Keep(int32_t block) {
  CHECK_GT(references_[block], 0);
  // A tainted block stays so.
  kept_[block] = tenants_[block] >= 0;
}

void BlockPool::Adopt(std::span<const int32_t> blocks, BlockLease* lease) {
  CHECK(lease->empty());
  lease->pool_ = this;
  for (const int32_t block : blocks) {
    CHECK(kept_[block]);
    if (references_[block] == 0) Unlink(block);
    ++references_[block];
    lease->blocks_.push_back(block);
  }
}

void BlockPool::Append(int32_t block) {
  IdleList& list = idle_[tenants_[block]];
  before_[block] = list.last;
  after_[block] = -1;
  (list.last < 0 ? list.first : after_[list.last]) = block;
  list.last = block;
  ++list.count;
  ++blocks_cached_;
  let_go_[block] = let_go_count_++;
}

void BlockPool::Unlink(int32_t block) {
  const auto found = idle_.find(tenants_[block]);
  CHECK(found != idle_.end());
  IdleList& list = found->second;
  (before_[block] < 0 ? list.first : after_[before_[block]]) = after_[block];
  (after_[block] < 0 ? list.last : before_[after_[block]]) = before_[block];
  --blocks_cached_;
  if (--list.count == 0) idle_.erase(found);
}

// See the top of block_pool.h. The lists come in no order of meaning; what is asked of them is one
// smallest number, so that the same calls give up the same block.
int32_t BlockPool::Evict(int64_t taker) {
  int32_t block = -1;
  std::tuple<int, int64_t> least;
  for (const auto& [tenant, list] : idle_) {
    const int turn = list.count > tenant_floor_ ? 0 : tenant == taker ? 1 : 2;
    const std::tuple<int, int64_t> order = {turn, let_go_[list.first]};
    if (block >= 0 && least < order) continue;
    block = list.first;
    least = order;
  }
  CHECK_GE(block, 0);
  Unlink(block);
  kept_[block] = false;
  return block;
}

}  // namespace tuppence
