// The scheduler's policy, settled without threads, clocks or a device: the test plays the engine.
#include "scheduler/scheduler.h"

#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "tests/scheduler/scheduler_player.h"

namespace tuppence {
namespace {

TEST(SchedulerTest, ALongPromptIsCutIntoChunksUnderTheStepBudget) {
  SchedulerPlayer player(SmallSchedulerOptions(), 64);
  const SequenceGroup* group = player.Add(40, 4);
  for (const int32_t chunk : {16, 16, 8}) {
    const StepPlan& plan = player.Plan();
    EXPECT_EQ(TokensOf(plan, group), chunk);
    EXPECT_EQ(plan.entries[0].draws, chunk == 8) << "only the last chunk draws";
    player.Complete(plan);
  }
  EXPECT_EQ(player.Step(), 1) << "then it decodes";
}

TEST(SchedulerTest, RunningSequencesDecodeInEveryStepBesideALongPrompt) {
  SchedulerPlayer player(SmallSchedulerOptions(), 64);
  const SequenceGroup* running = player.Add(4, 30);
  player.Step();
  const SequenceGroup* prompt = player.Add(60, 4);
  for (int32_t step = 0; step < 4; ++step) {
    const StepPlan& plan = player.Plan();
    EXPECT_EQ(TokensOf(plan, running), 1);
    EXPECT_EQ(TokensOf(plan, prompt), 15) << "what decode leaves of 16";
    player.Complete(plan);
  }
}

TEST(SchedulerTest, PrefillKeepsItsFloorInAStepFullOfDecodes) {
  SchedulerOptions options = SmallSchedulerOptions();
  options.step_tokens_max = 6;
  SchedulerPlayer player(options, 64);
  for (int32_t i = 0; i < 5; ++i) player.Add(1, 30);
  player.Step();
  player.Step();
  const SequenceGroup* prompt = player.Add(12, 4);
  for (int32_t step = 0; step < 3; ++step) {
    const StepPlan& plan = player.Plan();
    EXPECT_EQ(plan.decode_tokens, 5);
    EXPECT_EQ(TokensOf(plan, prompt), 4);
    player.Complete(plan);
  }
}

TEST(SchedulerTest, AStepStaysWithinTheTimeTargetAndThePromptStillComesThrough) {
  SchedulerOptions options = SmallSchedulerOptions();
  options.step_tokens_max = 64;
  options.itl_target_ns = 3000;
  SchedulerPlayer player(options, 64);
  const StepCostCoefficients costs = {
      .launch_ns = 100, .weights_ns = 900, .token_ns = 100, .attention_ns = 1, .kv_read_ns = 1};
  player.scheduler().SetCosts(costs);
  const StepCostModel model(costs, 0);
  const SequenceGroup* running = player.Add(4, 60);
  player.Step();
  SequenceGroup* prompt = player.Add(120, 4);
  int32_t steps = 0;
  for (; prompt->sequences[0].computed < 120; ++steps) {
    const StepPlan& plan = player.Plan();
    StepWork work;
    for (const PlanEntry& entry : plan.entries) {
      work.Add(WorkOf(entry.first, entry.end(), entry.phase));
    }
    EXPECT_LE(model.StepNs(work), 3000);
    EXPECT_EQ(TokensOf(plan, running), 1);
    EXPECT_GE(TokensOf(plan, prompt), 4) << "a block at least";
    EXPECT_LT(TokensOf(plan, prompt), 30);
    player.Complete(plan);
  }
  EXPECT_GT(steps, 4);
  EXPECT_LT(steps, 30);
}

TEST(SchedulerTest, SeveralPromptsStartInOneStep) {
  SchedulerPlayer player(SmallSchedulerOptions(), 64);
  const SequenceGroup* first = player.Add(5, 4);
  const SequenceGroup* second = player.Add(5, 4);
  const SequenceGroup* third = player.Add(9, 4);
  const StepPlan& plan = player.Plan();
  EXPECT_EQ(TokensOf(plan, first), 5);
  EXPECT_EQ(TokensOf(plan, second), 5);
  EXPECT_EQ(TokensOf(plan, third), 6) << "the rest of the budget";
}

TEST(SchedulerTest, PlacesLimitWhoRuns) {
  SchedulerOptions options = SmallSchedulerOptions();
  options.sequences_max = 3;
  SchedulerPlayer player(options, 64);
  player.Add(2, 4);
  player.Add(2, 4, /*choices=*/3);
  const SequenceGroup* third = player.Add(2, 4);
  player.Step();
  EXPECT_EQ(player.scheduler().running(), 1) << "three choices need three places";
  EXPECT_FALSE(third->running) << "and are not overtaken";
  EXPECT_EQ(player.scheduler().waiting(), 2);
}

TEST(SchedulerTest, PreemptsWhoHasLeastToRecompute) {
  SchedulerPlayer player(SmallSchedulerOptions(), 9);
  SequenceGroup* big = player.Add(15, 18);   // 4 blocks
  SequenceGroup* small = player.Add(7, 18);  // 2 blocks
  while (big->preemptions + small->preemptions == 0) player.Step();
  EXPECT_EQ(small->preemptions, 1);
  EXPECT_TRUE(big->running);
  EXPECT_FALSE(small->running);
}

TEST(SchedulerTest, OfEqualsTheLastToArriveIsPreempted) {
  SchedulerPlayer player(SmallSchedulerOptions(), 6);
  SequenceGroup* first = player.Add(8, 12);
  SequenceGroup* second = player.Add(8, 12);
  while (first->preemptions + second->preemptions == 0) player.Step();
  EXPECT_EQ(second->preemptions, 1);
}

TEST(SchedulerTest, AfterThreePreemptionsARequestIsPinnedAndKeepsItsPlace) {
  SchedulerPlayer player(SmallSchedulerOptions(), 12);
  SequenceGroup* victim = player.Add(4, 40);
  int32_t added = 0;
  for (int32_t step = 0; step < 2000 && victim->live_sequences() > 0; ++step) {
    if (player.scheduler().waiting() == 0) {
      player.Add(8, 20);
      ++added;
    }
    player.Step();
    EXPECT_LE(victim->preemptions, 3);
    if (victim->pinned && victim->running) {
      EXPECT_EQ(victim->sequences[0].blocks.size(), victim->sequences[0].finished ? 0 : 11)
          << "everything it may need is set aside";
    }
  }
  EXPECT_EQ(victim->live_sequences(), 0);
  EXPECT_GT(added, 2);
}

TEST(SchedulerTest, TwoRequestsOfOverHalfThePoolBothFinish) {
  SchedulerPlayer player(SmallSchedulerOptions(), 10);
  SequenceGroup* first = player.Add(4, 36);
  SequenceGroup* second = player.Add(4, 36);
  int32_t steps = 0;
  while (first->live_sequences() + second->live_sequences() > 0) {
    ASSERT_LT(++steps, 1000);
    player.Step();
  }
  EXPECT_EQ(player.pool().blocks_free(), 10);
}

TEST(SchedulerTest, TwoHalfReadPromptsDoNotBlockEachOther) {
  SchedulerPlayer player(SmallSchedulerOptions(), 10);
  std::vector<SequenceGroup*> groups;
  for (int32_t i = 0; i < 4; ++i) groups.push_back(player.Add(38, 2));
  int32_t steps = 0;
  while (player.scheduler().running() + player.scheduler().waiting() > 0) {
    ASSERT_LT(++steps, 1000);
    ASSERT_GT(player.Step(), 0) << "an empty plan with work to do";
  }
}

TEST(SchedulerTest, AfterPreemptionTheOutputIsComputedAgainAsDecodeRows) {
  SchedulerPlayer player(SmallSchedulerOptions(), 8);
  SequenceGroup* big = player.Add(16, 16);
  SequenceGroup* victim = player.Add(6, 12);
  while (victim->preemptions == 0) player.Step();
  const Sequence& sequence = victim->sequences[0];
  const int32_t output_tokens = sequence.output_tokens();
  ASSERT_GT(output_tokens, 1);
  EXPECT_EQ(sequence.recompute_end, sequence.length() - 1);
  while (!victim->running) player.Step();
  EXPECT_EQ(big->live_sequences(), 0);
  EXPECT_EQ(sequence.computed, 6) << "the prompt first, as prefill";
  const StepPlan& plan = player.Plan();
  ASSERT_EQ(plan.entries.size(), 1u);
  EXPECT_EQ(plan.entries[0].phase, Phase::kDecode);
  EXPECT_EQ(plan.entries[0].tokens, output_tokens);
  EXPECT_EQ(plan.entries[0].recomputed_tokens(), output_tokens - 1) << "the newest is new";
  EXPECT_TRUE(plan.entries[0].draws);
}

TEST(SchedulerTest, ChoicesShareFullPromptBlocksAndCopyThePartialOne) {
  SchedulerPlayer player(SmallSchedulerOptions(), 32);
  SequenceGroup* group = player.Add(10, 8, /*choices=*/3);  // 2 full blocks and a half
  const StepPlan& prompt = player.Plan();
  EXPECT_EQ(prompt.tokens, 10) << "computed once";
  EXPECT_TRUE(prompt.entries[0].draws_for_all);
  player.Complete(prompt);
  EXPECT_EQ(player.pool().blocks_used(), 3);
  const StepPlan& first = player.Plan();
  EXPECT_EQ(first.tokens, 3);
  EXPECT_EQ(first.copy_from.size(), 2u) << "the last of them writes in place";
  EXPECT_EQ(player.pool().blocks_used(), 5);
  player.Complete(first);
  EXPECT_TRUE(player.Plan().copy_from.empty());
  EXPECT_EQ(group->sequences[0].blocks.blocks()[1], group->sequences[2].blocks.blocks()[1]);
  EXPECT_NE(group->sequences[0].blocks.blocks()[2], group->sequences[2].blocks.blocks()[2]);
}

TEST(SchedulerTest, ASequenceThatOutgrowsTheShortRegimePrefillsAnew) {
  SchedulerOptions options = SmallSchedulerOptions();
  options.positions_original = 12;
  SchedulerPlayer player(options, 32);
  SequenceGroup* group = player.Add(10, 8);
  Sequence& sequence = group->sequences[0];
  while (sequence.length() < 13) {
    EXPECT_EQ(sequence.regime, RopeRegime::kShort);
    player.Step();
  }
  EXPECT_EQ(sequence.regime, RopeRegime::kLong);
  EXPECT_EQ(sequence.computed, 0);
  EXPECT_EQ(player.pool().blocks_used(), 0) << "it gave its blocks back";
  const StepPlan& plan = player.Plan();
  EXPECT_EQ(plan.tokens, 13);
  EXPECT_EQ(plan.entries[0].phase, Phase::kPrefill);
  EXPECT_EQ(plan.entries[0].recomputed_tokens(), 0) << "its own to pay, not overhead";
  player.Complete(plan);
  EXPECT_EQ(player.Plan().entries[0].phase, Phase::kDecode);
}

TEST(SchedulerTest, NothingIsComputedAgainWhenTheCrossingTokenIsTheLast) {
  SchedulerOptions options = SmallSchedulerOptions();
  options.positions_original = 12;
  SchedulerPlayer player(options, 32);
  SequenceGroup* group = player.Add(10, 3);
  int32_t tokens = 0;
  while (group->live_sequences() > 0) tokens += player.Step();
  EXPECT_EQ(tokens, 12);
}

TEST(SchedulerTest, TheRegimeIsSettledAtAdmissionWhereThatIsThePolicy) {
  SchedulerOptions options = SmallSchedulerOptions();
  options.positions_original = 12;
  options.rope_policy = RopePolicy::kAdmission;
  SchedulerPlayer player(options, 32);
  EXPECT_EQ(player.Add(10, 2)->sequences[0].regime, RopeRegime::kShort);
  EXPECT_EQ(player.Add(10, 3)->sequences[0].regime, RopeRegime::kLong);
}

TEST(SchedulerTest, APromptBeyondTheBorderIsLongFromItsFirstChunk) {
  SchedulerOptions options = SmallSchedulerOptions();
  options.positions_original = 12;
  SchedulerPlayer player(options, 32);
  EXPECT_EQ(player.Add(12, 2)->sequences[0].regime, RopeRegime::kShort);
  EXPECT_EQ(player.Add(13, 2)->sequences[0].regime, RopeRegime::kLong);
}

TEST(SchedulerTest, ScoredPromptPositionsAreLimitedByTheLogitRowsLeft) {
  SchedulerPlayer player(SmallSchedulerOptions(), 64);
  SequenceGroup* running = player.Add(2, 30);
  player.Step();
  SequenceGroup* scored = player.Add(20, 4);
  scored->wants_prompt_logprobs = true;
  int32_t rows = 0;
  while (scored->prompt_scored < 19) {
    const StepPlan& plan = player.Plan();
    EXPECT_LE(plan.logit_rows, 8);
    EXPECT_EQ(TokensOf(plan, running), 1) << "decode comes first";
    for (const PlanEntry& entry : plan.entries) rows += entry.score_end - entry.score_first;
    player.Complete(plan);
  }
  EXPECT_EQ(rows, 19) << "every prompt token but the first, once";
}

TEST(SchedulerTest, AStalledSequenceIsLeftOutAndKeepsItsBlocks) {
  SchedulerPlayer player(SmallSchedulerOptions(), 64);
  SequenceGroup* slow = player.Add(4, 30);
  SequenceGroup* other = player.Add(4, 30);
  player.Step();
  player.scheduler().SetStalled(&slow->sequences[0], true);
  const int32_t blocks = slow->sequences[0].blocks.size();
  for (int32_t step = 0; step < 5; ++step) {
    const StepPlan& plan = player.Plan();
    EXPECT_EQ(TokensOf(plan, slow), 0);
    EXPECT_EQ(TokensOf(plan, other), 1);
    player.Complete(plan);
  }
  EXPECT_EQ(slow->sequences[0].blocks.size(), blocks);
  player.scheduler().SetStalled(&slow->sequences[0], false);
  EXPECT_EQ(TokensOf(player.Plan(), slow), 1);
}

TEST(SchedulerTest, StalledSequencesDoNotKeepANewcomerFromTheLastBlocks) {
  SchedulerPlayer player(SmallSchedulerOptions(), 8);
  SequenceGroup* slow = player.Add(30, 2);
  while (slow->sequences[0].output_tokens() == 0) player.Step();
  player.scheduler().SetStalled(&slow->sequences[0], true);
  SequenceGroup* other = player.Add(10, 3);
  for (int32_t step = 0; step < 5; ++step) player.Step();
  EXPECT_EQ(other->live_sequences(), 0) << "it ran";
  EXPECT_EQ(slow->preemptions, 1);
}

TEST(SchedulerTest, RemovingARequestFreesItsBlocksInEveryState) {
  SchedulerPlayer player(SmallSchedulerOptions(), 16);
  SequenceGroup* decoding = player.Add(4, 8);
  SequenceGroup* shared = player.Add(6, 8, /*choices=*/2);
  player.Step();
  SequenceGroup* prefilling = player.Add(30, 8);
  player.Step();
  SequenceGroup* waiting = player.Add(8, 8);
  for (SequenceGroup* group : {waiting, shared, prefilling, decoding}) {
    player.scheduler().Remove(group, /*tainted=*/false);
  }
  EXPECT_EQ(player.pool().blocks_used(), 0);
  EXPECT_EQ(player.scheduler().sequences_running(), 0);
  EXPECT_TRUE(player.Plan().empty());
}

// A plan that came to nothing after blocks had changed hands: what they hold is somebody else's
// still, and the next step that runs zeroes them.
TEST(SchedulerTest, BlocksOfAnotherTenantAreZeroedThoughThePlanThatTookThemWasEmpty) {
  SchedulerPlayer player(SmallSchedulerOptions(), /*blocks=*/6);
  player.AddFor({.id = 1}, 23, 1);
  ASSERT_EQ(player.Step(), 16);
  ASSERT_EQ(player.Step(), 7);
  // Half of the pool is out of reach: its owner cannot lose it, and does not run.
  SequenceGroup* keeper = player.AddFor({.id = 3}, 8, 4);
  keeper->pinned = true;
  player.Step();
  player.scheduler().SetStalled(&keeper->sequences[0], true);
  ASSERT_EQ(player.pool().blocks_free(), 3);

  // Two choices, and a block for one of them: both give back what they have.
  SequenceGroup* both = player.AddFor({.id = 2}, 8, 4, /*choices=*/2);
  std::set<int32_t> zeroed;
  const auto note = [&](const StepPlan& plan) {
    zeroed.insert(plan.zero_blocks.begin(), plan.zero_blocks.end());
  };
  const StepPlan& prompt = player.Plan();
  note(prompt);
  player.Complete(prompt);
  const StepPlan& none = player.Plan();
  EXPECT_TRUE(none.empty());
  EXPECT_EQ(none.preemptions, 1);
  note(none);
  EXPECT_EQ(zeroed.size(), 2u);
  player.scheduler().Remove(both, /*tainted=*/false);

  player.AddFor({.id = 2}, 11, 1);
  note(player.Plan());
  EXPECT_EQ(zeroed.size(), 3u) << "every block that the first tenant had";
}

TEST(SchedulerTest, TheSameCallsGiveTheSamePlans) {
  std::vector<int32_t> traces[2];
  for (std::vector<int32_t>& trace : traces) {
    SchedulerPlayer player(SmallSchedulerOptions(), 18);
    for (int32_t i = 0; i < 6; ++i) player.Add(3 + 5 * i % 17, 10 + i, 1 + i % 2);
    while (player.scheduler().running() + player.scheduler().waiting() > 0) {
      const StepPlan& plan = player.Plan();
      for (const PlanEntry& entry : plan.entries) {
        trace.insert(trace.end(), {static_cast<int32_t>(entry.group->arrival),
                                   entry.sequence->choice, entry.first, entry.tokens});
        const auto blocks = entry.sequence->blocks.blocks();
        trace.insert(trace.end(), blocks.begin(), blocks.end());
      }
      player.Complete(plan);
    }
  }
  EXPECT_EQ(traces[0], traces[1]);
  EXPECT_GT(traces[0].size(), 100u);
}

}  // namespace
}  // namespace tuppence
