#include "scheduler/block_pool.h"

#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace tuppence {
namespace {

std::vector<int32_t> ZeroWork(BlockPool& pool) {
  std::vector<int32_t> blocks;
  pool.TakeZeroWork(&blocks);
  return blocks;
}

TEST(BlockPoolTest, TakesAllOrNothing) {
  BlockPool pool(4);
  BlockLease lease;
  EXPECT_FALSE(pool.TryTake(5, 0, &lease));
  EXPECT_EQ(lease.size(), 0);
  EXPECT_EQ(pool.blocks_free(), 4);
  EXPECT_TRUE(pool.TryTake(3, 0, &lease));
  EXPECT_FALSE(pool.TryTake(2, 0, &lease));
  EXPECT_EQ(lease.size(), 3);
  EXPECT_EQ(pool.blocks_free(), 1);
}

TEST(BlockPoolTest, ALeaseGivesItsBlocksBack) {
  BlockPool pool(4);
  {
    BlockLease lease;
    ASSERT_TRUE(pool.TryTake(4, 0, &lease));
    BlockLease moved = std::move(lease);
    EXPECT_EQ(pool.blocks_free(), 0);
    EXPECT_EQ(moved.size(), 4);
  }
  EXPECT_EQ(pool.blocks_free(), 4);
}

TEST(BlockPoolTest, SharedBlocksComeBackWithTheirLastOwner) {
  BlockPool pool(4);
  BlockLease first;
  ASSERT_TRUE(pool.TryTake(3, 0, &first));
  BlockLease second;
  pool.Share(first, 2, &second);
  EXPECT_EQ(pool.blocks_used(), 3);
  EXPECT_EQ(pool.references(first.blocks()[0]), 2);
  first.Clear();
  EXPECT_EQ(pool.blocks_used(), 2);
  second.Clear();
  EXPECT_EQ(pool.blocks_used(), 0);
}

TEST(BlockPoolTest, AnOwnBlockTakesTheSharedOnesPlace) {
  BlockPool pool(3);
  BlockLease first;
  ASSERT_TRUE(pool.TryTake(2, 0, &first));
  BlockLease second;
  pool.Share(first, 2, &second);
  int32_t from = -1;
  int32_t to = -1;
  ASSERT_TRUE(pool.TryMakeOwn(1, 0, &second, &from, &to));
  EXPECT_EQ(from, first.blocks()[1]);
  EXPECT_EQ(to, second.blocks()[1]);
  EXPECT_NE(from, to);
  EXPECT_EQ(pool.references(from), 1);
  EXPECT_EQ(pool.references(to), 1);
  EXPECT_EQ(second.blocks()[0], first.blocks()[0]);
  BlockLease third;
  pool.Share(first, 1, &third);
  EXPECT_FALSE(pool.TryMakeOwn(0, 0, &third, &from, &to)) << "no block is free";
}

TEST(BlockPoolTest, NamesBlocksThatChangeTenantForZeroing) {
  BlockPool pool(2);
  BlockLease lease;
  ASSERT_TRUE(pool.TryTake(2, 1, &lease));
  EXPECT_TRUE(ZeroWork(pool).empty()) << "the pool is zero from the start";
  lease.Clear();
  ASSERT_TRUE(pool.TryTake(1, 1, &lease));
  EXPECT_TRUE(ZeroWork(pool).empty()) << "its own content";
  BlockLease other;
  ASSERT_TRUE(pool.TryTake(1, 2, &other));
  EXPECT_EQ(ZeroWork(pool), std::vector<int32_t>{other.blocks()[0]});
  EXPECT_TRUE(ZeroWork(pool).empty()) << "once";
}

TEST(BlockPoolTest, ABlockThatChangesTenantTwiceBetweenStepsIsZeroedOnce) {
  BlockPool pool(1);
  for (int64_t tenant = 1; tenant <= 3; ++tenant) {
    BlockLease lease;
    ASSERT_TRUE(pool.TryTake(1, tenant, &lease));
  }
  EXPECT_EQ(ZeroWork(pool).size(), 1u);
}

TEST(BlockPoolTest, TaintedBlocksAreZeroedForTheirOwnTenantToo) {
  BlockPool pool(1);
  BlockLease lease;
  ASSERT_TRUE(pool.TryTake(1, 1, &lease));
  lease.ClearTainted();
  ASSERT_TRUE(pool.TryTake(1, 1, &lease));
  EXPECT_EQ(ZeroWork(pool).size(), 1u);
}

}  // namespace
}  // namespace tuppence
