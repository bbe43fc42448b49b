// Prompts that begin alike: who gets what from whom, and that nothing but time is saved.
#include "scheduler/prefix_cache.h"

#include <map>
#include <set>

#include "gtest/gtest.h"
#include "tests/scheduler/engine_harness.h"

namespace tuppence {
namespace {

int64_t CachedTokens(const EngineHarness& harness, int32_t index) {
  return harness.received(index).end->usage.cached_tokens;
}

TEST(PrefixKeyTest, KeysDifferByEverythingThatMustNotMix) {
  const ServerSecret secret = {1};
  const std::vector<int32_t> tokens = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  const auto keys = PrefixKeys(secret, "a", RopeRegime::kShort, tokens, 4);
  ASSERT_EQ(keys.size(), 2u) << "full blocks only";
  EXPECT_EQ(keys, PrefixKeys(secret, "a", RopeRegime::kShort, {{1, 2, 3, 4, 5, 6, 7, 8}}, 4));
  std::set<PrefixKey> all(keys.begin(), keys.end());
  const std::vector<std::vector<PrefixKey>> others = {
      PrefixKeys({2}, "a", RopeRegime::kShort, tokens, 4),
      PrefixKeys(secret, "b", RopeRegime::kShort, tokens, 4),
      PrefixKeys(secret, "a", RopeRegime::kLong, tokens, 4),
      // The same second block after another first one.
      PrefixKeys(secret, "a", RopeRegime::kShort, {{1, 2, 3, 9, 5, 6, 7, 8}}, 4)};
  for (const auto& other : others) all.insert(other.begin(), other.end());
  EXPECT_EQ(all.size(), 10u);
}

TEST(PrefixKeyTest, ATenantsNumberNeedsTheSecret) {
  EXPECT_EQ(TenantId({1}, "a"), TenantId({1}, "a"));
  EXPECT_NE(TenantId({1}, "a"), TenantId({2}, "a"));
  EXPECT_NE(TenantId({1}, "a"), TenantId({1}, "b"));
  EXPECT_GE(TenantId({1}, "a"), 0);
  EXPECT_NE(DrawServerSecret(), DrawServerSecret());
}

TEST(PrefixCacheTest, WhatIsFoundIsVerifiedAgainstTheTokens) {
  BlockPool pool(8);
  PrefixCache cache(2, &pool);
  const std::vector<int32_t> tokens = {1, 2, 3, 4};
  const auto keys = PrefixKeys({}, "a", RopeRegime::kShort, tokens, 2);
  BlockLease lease;
  ASSERT_TRUE(pool.TryTake(2, 7, &lease));
  cache.Insert({keys, tokens, 7, RopeRegime::kShort}, lease.blocks());
  std::vector<int32_t> found;
  cache.Find({keys, tokens, 7, RopeRegime::kShort}, 9, &found);
  EXPECT_EQ(found, std::vector<int32_t>(lease.blocks().begin(), lease.blocks().end()));
  // As if two prompts had the same hash.
  const std::vector<int32_t> others = {1, 2, 3, 5};
  cache.Find({keys, others, 7, RopeRegime::kShort}, 9, &found);
  EXPECT_EQ(found.size(), 1u);
  cache.Find({keys, tokens, 8, RopeRegime::kShort}, 9, &found);
  EXPECT_TRUE(found.empty());
  cache.Find({keys, tokens, 7, RopeRegime::kLong}, 9, &found);
  EXPECT_TRUE(found.empty());
}

TEST(PrefixCacheTest, ABlockThatWasTakenBySomebodyElseIsNoLongerFound) {
  BlockPool pool(2);
  PrefixCache cache(2, &pool);
  const std::vector<int32_t> tokens = {1, 2, 3, 4};
  const auto keys = PrefixKeys({}, "a", RopeRegime::kShort, tokens, 2);
  const PrefixView prompt = {keys, tokens, 7, RopeRegime::kShort};
  {
    BlockLease lease;
    ASSERT_TRUE(pool.TryTake(2, 7, &lease));
    cache.Insert(prompt, lease.blocks());
  }
  EXPECT_EQ(pool.blocks_free(), 2);
  EXPECT_EQ(pool.blocks_cached(), 2);
  BlockLease other;
  ASSERT_TRUE(pool.TryTake(1, 8, &other));
  std::vector<int32_t> found;
  cache.Find(prompt, 9, &found);
  EXPECT_EQ(found.size(), 1u) << "the end went first";
  EXPECT_EQ(pool.blocks_cached(), 1);
}

TEST(PrefixCacheTest, ATenantsFloodPushesOutItsOwnAndLeavesOthersTheirFloor) {
  BlockPool pool(12, /*tenant_floor=*/3);
  PrefixCache cache(1, &pool);
  std::vector<int32_t> found;
  // A prompt that nobody had before; afterwards its blocks are found.
  const auto leave = [&](int64_t tenant, const std::vector<int32_t>& tokens) {
    const auto keys = PrefixKeys({}, std::to_string(tenant), RopeRegime::kShort, tokens, 1);
    BlockLease lease;
    ASSERT_TRUE(pool.TryTake(static_cast<int32_t>(tokens.size()), tenant, &lease));
    cache.Insert({keys, tokens, tenant, RopeRegime::kShort}, lease.blocks());
  };
  const auto find = [&](int64_t tenant, const std::vector<int32_t>& tokens) {
    const auto keys = PrefixKeys({}, std::to_string(tenant), RopeRegime::kShort, tokens, 1);
    cache.Find({keys, tokens, tenant, RopeRegime::kShort}, 99, &found);
    return found.size();
  };
  leave(1, {1, 2, 3, 4, 5});
  EXPECT_EQ(find(1, {1, 2, 3, 4, 5}), 5u);
  for (int32_t i = 0; i < 20; ++i) leave(2, {10 * i, 1, 2, 3});
  EXPECT_EQ(pool.blocks_cached(), 12);
  EXPECT_EQ(find(1, {1, 2, 3, 4, 5}), 3u) << "its floor, the beginning of its prompt";
  EXPECT_EQ(find(2, {190, 1, 2, 3}), 4u);
  EXPECT_EQ(find(2, {180, 1, 2, 3}), 4u);
  EXPECT_EQ(find(2, {170, 1, 2, 3}), 1u) << "the oldest goes, its end first";
  BlockLease lease;
  EXPECT_TRUE(pool.TryTake(12, 2, &lease)) << "work that runs may have everything";
}

TEST(PrefixCacheTest, ASecondRequestIsComputedFromWhereItParts) {
  EngineHarness harness(SmallEngineOptions());
  const int32_t first = harness.Submit(MakeRequest("first", 30, 5, 9));
  harness.Run();
  const int64_t before = harness.engine().Snapshot().prefill_tokens;
  const int32_t longer = harness.Submit(MakeRequest("longer", 45, 5, 9));
  harness.Run();
  EXPECT_EQ(CachedTokens(harness, first), 0);
  EXPECT_EQ(CachedTokens(harness, longer), 28) << "seven full blocks of four";
  EXPECT_EQ(harness.engine().Snapshot().prefill_tokens - before, 45 - 28) << "unbilled";
  const int32_t same = harness.Submit(MakeRequest("same", 28, 5, 9));
  harness.Run();
  EXPECT_EQ(CachedTokens(harness, same), 24) << "the last position is always computed";
  for (int32_t i = 0; i < 3; ++i) harness.ExpectWhole(i);
  EXPECT_LT(harness.received(same).end->cost.prefill_ns,
            harness.received(first).end->cost.prefill_ns);
  EXPECT_EQ(harness.engine().Snapshot().prefix.prompt_tokens, 30 + 45 + 28);
  EXPECT_EQ(harness.engine().Snapshot().prefix.hit_tokens, 28 + 24);
  harness.ExpectAtRest();
}

TEST(PrefixCacheTest, NothingIsSharedBetweenTenants) {
  EngineHarness harness(SmallEngineOptions());
  harness.Submit(MakeRequest("mine", 30, 5, 9));
  harness.Run();
  Request other = MakeRequest("theirs", 30, 5, 9);
  other.tenant = "another";
  const int32_t index = harness.Submit(other);
  harness.Run();
  EXPECT_EQ(CachedTokens(harness, index), 0);
  harness.ExpectWhole(index);
}

TEST(PrefixCacheTest, RequestsThatRunTogetherShareWhatOneHasRead) {
  EngineHarness harness(SmallEngineOptions());
  const int32_t first = harness.Submit(MakeRequest("first", 30, 30, 9));
  harness.Step();
  harness.Step();
  const int32_t used = harness.engine().pool().blocks_used();
  Request second = MakeRequest("second", 30, 30, 9);
  second.sampling.choices = 3;
  const int32_t index = harness.Submit(second);
  harness.Step();
  EXPECT_LE(harness.engine().pool().blocks_used(), used + 2) << "seven of eight are the same";
  harness.Run();
  EXPECT_EQ(CachedTokens(harness, index), 28);
  harness.ExpectWhole(first);
  harness.ExpectWhole(index);
  harness.ExpectAtRest();
}

TEST(PrefixCacheTest, PromptLogprobsTakeNoHits) {
  EngineHarness harness(SmallEngineOptions());
  harness.Submit(MakeRequest("first", 30, 5, 9));
  harness.Run();
  Request scored = MakeRequest("scored", 30, 5, 9);
  scored.sampling.prompt_logprobs = true;
  const int32_t index = harness.Submit(scored);
  harness.Run();
  EXPECT_EQ(CachedTokens(harness, index), 0);
  EXPECT_EQ(harness.received(index).prompt_logprobs.size(), 29u);
  harness.ExpectWhole(index);
}

TEST(PrefixCacheTest, WhatGaveNoNumbersIsNeverShared) {
  EngineHarness harness(SmallEngineOptions());
  harness.executor().not_finite = [](const SamplingRow& row) { return row.key.seed == 9; };
  harness.Submit(MakeRequest("bad", 30, 5, 9));
  harness.Run();
  harness.executor().not_finite = nullptr;
  EXPECT_EQ(harness.engine().pool().blocks_cached(), 0);
  const int32_t next = harness.Submit(MakeRequest("next", 30, 5, 9));
  harness.Run();
  EXPECT_EQ(CachedTokens(harness, next), 0);
  harness.ExpectWhole(next);
}

TEST(PrefixCacheTest, OutputIsNotShared) {
  EngineHarness harness(SmallEngineOptions());
  Request first = MakeRequest("first", 10, 20, 9);
  const int32_t one = harness.Submit(first);
  harness.Run();
  Request next = MakeRequest("next", 10, 5, 9);
  const std::vector<int32_t>& answer = harness.received(one).token_ids[0];
  next.prompt.insert(next.prompt.end(), answer.begin(), answer.end());
  const int32_t index = harness.Submit(next);
  harness.Run();
  EXPECT_EQ(CachedTokens(harness, index), 8) << "decoded positions took the other kernel";
  harness.ExpectWhole(index);
}

TEST(PrefixCacheTest, LongAndShortRegimesDoNotMeet) {
  EngineOptions options = SmallEngineOptions();
  options.positions_original = 40;
  EngineHarness harness(options);
  const int32_t brief = harness.Submit(MakeRequest("short", 30, 20, 9));  // crosses while it runs
  harness.Run();
  const int32_t longer = harness.Submit(MakeRequest("long", 45, 5, 9));
  harness.Run();
  EXPECT_EQ(CachedTokens(harness, longer), 0);
  const int32_t again = harness.Submit(MakeRequest("again", 50, 5, 9));
  harness.Run();
  EXPECT_EQ(CachedTokens(harness, again), 44);
  for (const int32_t index : {brief, longer, again}) harness.ExpectWhole(index);
}

TEST(PrefixCacheTest, WithoutItNothingIsKept) {
  EngineOptions options = SmallEngineOptions();
  options.prefix_cache = false;
  EngineHarness harness(options);
  harness.Submit(MakeRequest("first", 30, 5, 9));
  harness.Submit(MakeRequest("second", 30, 5, 9));
  harness.Run();
  EXPECT_EQ(CachedTokens(harness, 1), 0);
  EXPECT_EQ(harness.engine().pool().blocks_cached(), 0);
}

}  // namespace
}  // namespace tuppence
