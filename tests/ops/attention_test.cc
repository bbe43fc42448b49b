// Attention and RopeStore through the pages: against the reference, and bit for bit however a
// sequence is cut into steps.
#include <algorithm>
#include <cmath>

#include "tests/ops/ops_fixture.h"

namespace tuppence::testing {
namespace {

using AttentionTest = OpsTest;

struct Case {
  int32_t heads, kv_heads, head_dim, window;
  DType kv;
  Phase phase = Phase::kPrefill;
};

AttentionShape ShapeOf(const Case& c) {
  return {c.heads, c.kv_heads, c.head_dim, 1.0f / std::sqrt(static_cast<float>(c.head_dim)),
          c.window};
}

std::string Describe(const Case& c) {
  return "heads " + std::to_string(c.heads) + " kv_heads " + std::to_string(c.kv_heads) + " dim " +
         std::to_string(c.head_dim) + " window " + std::to_string(c.window) + " kv " +
         NameOf(c.kv) + (c.phase == Phase::kDecode ? " decode" : " prefill");
}

// GQA ratios 1, 3 and 4; a window that starts inside a tile; all cache types. A GPU has the head
// sizes of the published models, and kernels of its own for prefill and for decode.
std::vector<Case> CasesOf(const BackendCase& which) {
  std::vector<Case> all;
  if (!which.cpu()) {
    for (const Phase phase : {Phase::kPrefill, Phase::kDecode}) {
      for (const DType kv : {which.half, DType::kI8}) {
        all.push_back({2, 2, 64, 0, kv, phase});
        all.push_back({4, 1, 128, 37, kv, phase});
        if (kSanitized) continue;
        all.push_back({3, 1, 64, 0, kv, phase});
        all.push_back({2, 2, 96, 70, kv, phase});
        all.push_back({10, 2, 96, 0, kv, phase});
        if (phase == Phase::kDecode) all.push_back({10, 1, 64, 0, kv, phase});  // two blocks' heads
      }
    }
    return all;
  }
  for (const DType kv : {DType::kF32, DType::kBf16, DType::kI8}) {
    all.push_back({2, 2, 64, 0, kv});
    all.push_back({4, 1, 128, 37, kv});
    if (kSanitized) continue;
    all.push_back({3, 1, 80, 0, kv});
    all.push_back({2, 2, 96, 70, kv});
    all.push_back({2, 1, 72, 0, kv});
    all.push_back({1, 1, 8, 0, kv});
  }
  return all;
}

// The 16-bit type of pages that the backend has.
DType HalfKv(const BackendCase& which) { return which.cpu() ? DType::kBf16 : which.half; }

// One sequence of `tokens` tokens in shuffled blocks, and its rows of qkv.
struct SequenceInPages {
  Case c;
  int32_t block_tokens = 16;
  int32_t tokens;
  std::vector<float> qkv;
  std::vector<int32_t> blocks;
  std::unique_ptr<HostKvLayer> cache;

  // Values that every type of the backend holds, so that what is tested is the op's own rounding.
  SequenceInPages(const Backend& backend, Case shape, int32_t count, int32_t block_size = 16)
      : c(shape), block_tokens(block_size), tokens(count) {
    RandomTensors random(count);
    qkv = Seen(backend, random.Normal(int64_t{tokens} * stride(), 1.5f));
    const int32_t needed = (tokens + block_tokens - 1) / block_tokens;
    // A step of 7 through a pool whose size shares no factor with it meets every block once.
    const int32_t pool = needed + ((needed + 8) % 7 == 0 ? 9 : 8);
    for (int32_t i = 0; i < needed; ++i) blocks.push_back((i * 7 + 3) % pool);
    cache = MakeHostKvLayer(c.kv, pool, c.kv_heads, block_tokens, c.head_dim);
  }
  int64_t stride() const { return int64_t{c.heads + 2 * c.kv_heads} * c.head_dim; }
  EntrySpec Entry(int32_t first, int32_t count) const { return {first, count, c.phase, blocks}; }
};

// Stores rows [first, first + count) of the sequence, unrotated.
void Store(Backend& backend, SequenceInPages& sequence, int32_t first, int32_t count) {
  const auto host = MakeHostBatch({sequence.Entry(first, count)}, sequence.block_tokens);
  std::vector<float> rows = RowsOf(sequence.qkv, sequence.stride(), first, count);
  std::vector<float> angles(static_cast<size_t>(count) * 8, 0.0f);
  for (int32_t t = 0; t < count; ++t) std::fill_n(angles.begin() + t * 8, 4, 1.0f);
  RunRopeStore(backend, rows, angles, ShapeOf(sequence.c), host->batch, *sequence.cache);
}

std::vector<float> Attend(Backend& backend, SequenceInPages& sequence, int32_t first,
                          int32_t count) {
  const auto host = MakeHostBatch({sequence.Entry(first, count)}, sequence.block_tokens);
  return RunAttention(backend, RowsOf(sequence.qkv, sequence.stride(), first, count),
                      ShapeOf(sequence.c), host->batch, *sequence.cache);
}

// As one step of the model does.
std::vector<float> Step(Backend& backend, SequenceInPages& sequence, int32_t first, int32_t count) {
  Store(backend, sequence, first, count);
  return Attend(backend, sequence, first, count);
}

// A sequence cut as given.
std::vector<float> RunCut(Backend& backend, SequenceInPages& sequence,
                          const std::vector<int32_t>& cuts) {
  std::vector<float> all;
  int32_t first = 0;
  for (const int32_t count : cuts) {
    const std::vector<float> part = Step(backend, sequence, first, count);
    all.insert(all.end(), part.begin(), part.end());
    first += count;
  }
  EXPECT_EQ(first, sequence.tokens);
  return all;
}

TEST_P(AttentionTest, MatchesReferenceForEveryShapeAndCacheType) {
  for (const Case& c : CasesOf(GetParam())) {
    const int32_t tokens = kSanitized ? 70 : 150;
    SequenceInPages sequence(*backend, c, tokens);
    const std::vector<float> out = Step(*backend, sequence, 0, tokens);
    const auto host = MakeHostBatch({sequence.Entry(0, tokens)}, 16);
    const AttentionReference expected =
        ReferenceAttention(sequence.qkv, ShapeOf(c), host->batch, sequence.cache->layer);
    // Of codes, or of 1.5 times a normal deviate.
    const double value_max = c.kv == DType::kI8 ? 127 : 1.5 * 6;
    for (size_t i = 0; i < out.size(); ++i) {
      const int64_t row = static_cast<int64_t>(i) / c.head_dim;
      const double error =
          AttentionError(c.head_dim, expected.keys[row / c.heads], expected.score_magnitudes[row],
                         expected.value_magnitudes[i]) +
          HalfAttentionError(GetParam().half, expected.keys[row / c.heads],
                             expected.value_magnitudes[i], value_max);
      ASSERT_NEAR(out[i], expected.values[i], error) << Describe(c) << " value " << i;
    }
  }
}

TEST_P(AttentionTest, ChunksGiveTheBitsOfTheWholePrompt) {
  for (const Case& c : CasesOf(GetParam())) {
    const int32_t tokens = slow() ? 101 : 139;
    SequenceInPages sequence(*backend, c, tokens);
    const std::vector<float> whole = RunCut(*backend, sequence, {tokens});
    RandomTensors random(77);
    for (int round = 0; round < (slow() ? 2 : 4); ++round) {
      std::vector<int32_t> cuts;
      int32_t left = tokens;
      while (left > 0) {
        cuts.push_back(
            static_cast<int32_t>(std::min<int64_t>(left, random.Integer(1, round > 0 ? 60
                                                                           : slow()  ? 9
                                                                                     : 3))));
        left -= cuts.back();
      }
      SequenceInPages again(*backend, c, tokens);
      ASSERT_TRUE(SameBits(RunCut(*backend, again, cuts), whole)) << Describe(c);
    }
  }
}

TEST_P(AttentionTest, BlockSizeDoesNotChangeBits) {
  const Case c = {4, 2, 96, 50, HalfKv(GetParam())};
  SequenceInPages sixteen(*backend, c, 101, 16), odd(*backend, c, 101, 5);
  EXPECT_TRUE(SameBits(Step(*backend, sixteen, 0, 101), Step(*backend, odd, 0, 101)));
}

// Long enough for several splits. With many threads, or few rows on a GPU, they run side by side.
TEST_P(AttentionTest, SplitsMergeToTheSameBitsHoweverTheyRun) {
  const int32_t tokens = slow() || GetParam().plain() ? 1100 : 3300;
  for (const int32_t window : {0, 1030}) {
    const Case c = {2, 1, 64, window, HalfKv(GetParam()), Phase::kDecode};
    SequenceInPages sequence(*backend, c, tokens);
    Store(*backend, sequence, 0, tokens);
    const int32_t rows = slow() ? 40 : tokens;
    const int64_t width = 2 * 64;
    const std::vector<float> whole = Attend(*backend, sequence, tokens - rows, rows);
    const std::vector<float> last = RowsOf(whole, width, rows - 1, 1);
    const std::unique_ptr<Backend> one = MakeBackend(GetParam(), 1);
    const std::unique_ptr<Backend> many = MakeBackend(GetParam(), 6);
    EXPECT_TRUE(SameBits(Attend(*one, sequence, tokens - 1, 1), last));
    EXPECT_TRUE(SameBits(Attend(*many, sequence, tokens - 1, 1), last));
    EXPECT_TRUE(
        SameBits(Attend(*many, sequence, tokens - 40, 40), RowsOf(whole, width, rows - 40, 40)));
  }
}

TEST_P(AttentionTest, SequencesOfOneStepDoNotTouchEachOther) {
  const Case c = {4, 1, 96, 0, HalfKv(GetParam())};
  const AttentionShape shape = ShapeOf(c);
  const int64_t stride = 6 * 96, width = 4 * 96;
  const auto cache = MakeHostKvLayer(c.kv, 40, 1, 16, 96);
  // Three sequences in their own blocks: a prompt's chunk, one decode token, another chunk.
  const std::vector<EntrySpec> entries = {{0, 33, Phase::kPrefill, {5, 1, 9}},
                                          {0, 1, Phase::kDecode, {30}},
                                          {0, 20, Phase::kPrefill, {2, 17}}};
  std::vector<float> qkv = RandomTensors(31).Normal(54 * stride);
  std::vector<float> angles(54 * 4, 0.0f);
  for (int t = 0; t < 54; ++t) angles[t * 4] = angles[t * 4 + 1] = 1;
  const auto all = MakeHostBatch(entries, 16);
  RunRopeStore(*backend, qkv, angles, shape, all->batch, *cache);
  const std::vector<float> together = RunAttention(*backend, qkv, shape, all->batch, *cache);
  for (int entry = 0; entry < 3; ++entry) {
    const int32_t first = all->entry_starts[entry];
    const int32_t count = all->entry_starts[entry + 1] - first;
    const auto alone = MakeHostBatch({entries[entry]}, 16);
    const std::vector<float> out =
        RunAttention(*backend, RowsOf(qkv, stride, first, count), shape, alone->batch, *cache);
    EXPECT_TRUE(SameBits(out, RowsOf(together, width, first, count))) << "entry " << entry;
  }
}

// On a GPU a prompt's positions share the fate of the 64 that they are in: 0 * NaN is NaN.
TEST_P(AttentionTest, NotANumberLaterInTheSequenceDoesNotReachEarlierRows) {
  for (const Phase phase : {Phase::kPrefill, Phase::kDecode}) {
    const Case c = {2, 2, 96, 0, HalfKv(GetParam()), phase};
    const int32_t bad = 71;
    const int32_t clean_rows = GetParam().cpu() || phase == Phase::kDecode ? bad : 64;
    SequenceInPages clean(*backend, c, 100), poisoned(*backend, c, 100);
    std::fill_n(poisoned.qkv.begin() + bad * poisoned.stride(), poisoned.stride(),
                std::numeric_limits<float>::quiet_NaN());
    const int64_t width = 2 * 96;
    const std::vector<float> expected = Step(*backend, clean, 0, 100);
    const std::vector<float> out = Step(*backend, poisoned, 0, 100);
    EXPECT_TRUE(
        SameBits(RowsOf(out, width, 0, clean_rows), RowsOf(expected, width, 0, clean_rows)));
    for (int64_t i = bad * width; i < 100 * width; ++i) ASSERT_TRUE(std::isnan(out[i]));
  }
}

TEST_P(AttentionTest, LargeScoresDoNotOverflow) {
  for (const Phase phase : {Phase::kPrefill, Phase::kDecode}) {
    const Case c = {1, 1, 64, 0, GetParam().half, phase};  // f32 on the CPU
    SequenceInPages sequence(*backend, c, 130);
    for (float& value : sequence.qkv) value *= 300;
    for (const float value : Step(*backend, sequence, 0, 130)) ASSERT_TRUE(std::isfinite(value));
  }
}

TEST_P(AttentionTest, AgreesWithPlainToTheBit) {
  if (!GetParam().cpu()) GTEST_SKIP() << "a GPU has its own arithmetic";
  const std::unique_ptr<Backend> plain = MakePlain();
  for (const Case& c : CasesOf(GetParam())) {
    SequenceInPages mine(*backend, c, 130), theirs(*backend, c, 130);
    ASSERT_TRUE(SameBits(Step(*backend, mine, 0, 130), Step(*plain, theirs, 0, 130)))
        << Describe(c);
    ASSERT_EQ(mine.cache->keys, theirs.cache->keys) << Describe(c);
    ASSERT_EQ(mine.cache->values, theirs.cache->values) << Describe(c);
    ASSERT_EQ(mine.cache->key_scales, theirs.cache->key_scales) << Describe(c);
  }
}

TUPPENCE_FOR_EACH_BACKEND(AttentionTest);

}  // namespace
}  // namespace tuppence::testing
