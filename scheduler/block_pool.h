// BlockPool: the fixed pool of KV blocks, counted by reference; and BlockLease, the blocks of one
// sequence in the order of its positions. Knows nothing of what lies in a block but whose it was: a
// block that changes tenant is named for zeroing before its new owner can read it.
// Used by the scheduler. Thread: engine only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tuppence {

class BlockPool;

// Move-only; gives its blocks back when destroyed. The pool outlives its leases.
class BlockLease {
 public:
  BlockLease() = default;
  ~BlockLease() { Clear(); }
  BlockLease(BlockLease&& other) noexcept;
  BlockLease& operator=(BlockLease&& other) noexcept;

  std::span<const int32_t> blocks() const { return blocks_; }
  int32_t size() const { return static_cast<int32_t>(blocks_.size()); }
  bool empty() const { return blocks_.empty(); }

  // Room for so many blocks, so that taking allocates nothing.
  void Reserve(int32_t blocks) { blocks_.reserve(blocks); }
  // Gives all blocks back.
  void Clear();
  // As Clear, but the blocks are zeroed before anyone else gets them: they hold values that are not
  // finite, and 0 x NaN is NaN.
  void ClearTainted();

 private:
  friend class BlockPool;
  BlockPool* pool_ = nullptr;
  std::vector<int32_t> blocks_;
};

class BlockPool {
 public:
  explicit BlockPool(int32_t blocks);

  int32_t blocks_total() const { return static_cast<int32_t>(references_.size()); }
  int32_t blocks_free() const { return static_cast<int32_t>(free_.size()); }
  int32_t blocks_used() const { return blocks_total() - blocks_free(); }
  int32_t references(int32_t block) const { return references_[block]; }

  // Adds `count` blocks to the end of the lease, or none if fewer are free; the caller then
  // preempts or waits. Requires: count >= 0.
  bool TryTake(int32_t count, int64_t tenant, BlockLease* lease);
  // Lets *to, which must be empty, hold the first `count` blocks of `from` as well.
  void Share(const BlockLease& from, int32_t count, BlockLease* to);
  // Puts a block of its own in the place of a shared one, so that the lease may write there; the
  // caller copies the content (*copy_from to *copy_to). False when no block is free.
  bool TryMakeOwn(int32_t index, int64_t tenant, BlockLease* lease, int32_t* copy_from,
                  int32_t* copy_to);

  // Appends the blocks taken since the last call that had another tenant before.
  void TakeZeroWork(std::vector<int32_t>* blocks);

 private:
  friend class BlockLease;
  static constexpr int64_t kNobody = -1;   // never used: zero since start
  static constexpr int64_t kTainted = -2;  // to be zeroed whoever comes

  int32_t Take(int64_t tenant);
  void Drop(int32_t block, bool tainted);

  std::vector<int32_t> references_;  // [blocks]
  std::vector<int64_t> tenants_;     // [blocks] whose content it holds
  std::vector<bool> zero_listed_;    // [blocks] already in zero_
  std::vector<int32_t> free_;        // taken from the end
  std::vector<int32_t> zero_;
};

}  // namespace tuppence
