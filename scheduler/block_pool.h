// BlockPool: the fixed pool of KV blocks, counted by reference; and BlockLease, the blocks of one
// sequence in the order of its positions. Knows nothing of what lies in a block but whose it was,
// and whether it may be wanted again: a block that changes tenant is named for zeroing before its
// new owner can read it; a block that was kept stays as it is, once nobody holds it, for as long as
// nobody needs the room. Used by the scheduler. Thread: engine only.
//
//   blocks_total = blocks_used + blocks_free, and blocks_cached of the free ones hold what was kept
//
// When room is needed the block that was let go longest ago is given up, of a tenant who has more
// than tenant_floor of them; if there is none, one of the taker's own; at last anybody's. So what a
// tenant leaves behind pushes out its own first, and never another's last tenant_floor blocks; only
// requests that run, and fill the whole pool, do that.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"

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
  // Gives all blocks back, the last one first: of what was kept the end goes before the beginning,
  // without which it would be of no use.
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
  explicit BlockPool(int32_t blocks, int32_t tenant_floor = 0);

  int32_t blocks_total() const { return static_cast<int32_t>(references_.size()); }
  int32_t blocks_free() const { return static_cast<int32_t>(free_.size()) + blocks_cached_; }
  int32_t blocks_used() const { return blocks_total() - blocks_free(); }
  int32_t blocks_cached() const { return blocks_cached_; }
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

  // What lies in a block that somebody holds is complete and may be wanted again.
  void Keep(int32_t block);
  // It still lies there.
  bool kept(int32_t block) const { return kept_[block]; }
  // Lets the lease, which must be empty, hold these as well. Requires: they are kept.
  void Adopt(std::span<const int32_t> blocks, BlockLease* lease);

  // Appends the blocks taken since the last call that had another tenant before.
  void TakeZeroWork(std::vector<int32_t>* blocks);

 private:
  friend class BlockLease;
  static constexpr int64_t kNobody = -1;   // never used: zero since start
  static constexpr int64_t kTainted = -2;  // to be zeroed whoever comes

  // A tenant's kept blocks that nobody holds, from the one let go first to the last.
  struct IdleList {
    int32_t first = -1;
    int32_t last = -1;
    int32_t count = 0;
  };

  int32_t Take(int64_t tenant);
  int32_t Evict(int64_t taker);
  void Drop(int32_t block, bool tainted);
  void Append(int32_t block);
  void Unlink(int32_t block);

  const int32_t tenant_floor_;
  std::vector<int32_t> references_;  // [blocks]
  std::vector<int64_t> tenants_;     // [blocks] whose content it holds
  std::vector<bool> zero_listed_;    // [blocks] already in zero_
  std::vector<bool> kept_;           // [blocks]
  std::vector<int32_t> free_;        // taken from the end
  std::vector<int32_t> zero_;

  absl::flat_hash_map<int64_t, IdleList> idle_;  // by tenant; none is empty
  int32_t blocks_cached_ = 0;
  std::vector<int32_t> before_;  // [blocks] in its tenant's list
  std::vector<int32_t> after_;
  std::vector<int64_t> let_go_;  // [blocks] when, as a running number
  int64_t let_go_count_ = 0;
};

}  // namespace tuppence
