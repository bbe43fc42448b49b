#include "scheduler/block_pool.h"

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
  for (const int32_t block : blocks_) pool_->Drop(block, /*tainted=*/false);
  blocks_.clear();
}

void BlockLease::ClearTainted() {
  for (const int32_t block : blocks_) pool_->Drop(block, /*tainted=*/true);
  blocks_.clear();
}

BlockPool::BlockPool(int32_t blocks)
    : references_(blocks, 0), tenants_(blocks, kNobody), zero_listed_(blocks, false) {
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
  if (free_.empty()) return false;
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
  const int32_t block = free_.back();
  free_.pop_back();
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
  if (tainted) tenants_[block] = kTainted;
  if (--references_[block] == 0) free_.push_back(block);
}

}  // namespace tuppence
