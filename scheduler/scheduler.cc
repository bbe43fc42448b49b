#include "scheduler/scheduler.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "model/check.h"

namespace tuppence {
namespace {

constexpr int32_t kUnlimited = std::numeric_limits<int32_t>::max();

// For a heap whose top is the first in line.
constexpr auto Behind = [](const auto& a, const auto& b) { return b.order < a.order; };

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options, BlockPool* pool)
    : options_(options),
      pool_(pool),
      queue_(options.class_wait_max_ns, options.request_wait_max_ns),
      cache_(options.block_tokens, pool),
      budget_({.step_tokens_max = options.step_tokens_max,
               .prefill_tokens_min = options.prefill_tokens_min,
               .block_tokens = options.block_tokens,
               .itl_target_ns = options.itl_target_ns}) {
  CHECK_GT(options.block_tokens, 0);
  CHECK_GT(options.sequences_max, 0);
  CHECK_GT(options.prefill_tokens_min, 0);
  CHECK_GE(options.step_tokens_max, options.prefill_tokens_min);
  CHECK_GE(options.logit_rows_max, options.sequences_max);
  CHECK_GT(options.preemptions_max, 0);
  running_.reserve(options.sequences_max);
  ready_.reserve(options.sequences_max);
  for (StepPlan& plan : plans_) {
    // One more: the oldest prompt may be planned twice for a moment.
    plan.entries.reserve(options.sequences_max + 1);
    plan.zero_blocks.reserve(pool->blocks_total());
    plan.copy_from.reserve(options.sequences_max);
    plan.copy_to.reserve(options.sequences_max);
  }
}

int64_t Scheduler::BlocksMax(int64_t prompt_tokens, int64_t max_tokens, int32_t choices) const {
  const int64_t tokens = prompt_tokens + max_tokens;
  return choices * ((tokens + options_.block_tokens - 1) / options_.block_tokens);
}

RopeRegime Scheduler::RegimeOf(int64_t prompt_tokens, int64_t max_tokens) const {
  const int64_t length =
      options_.rope_policy == RopePolicy::kExact ? prompt_tokens : prompt_tokens + max_tokens;
  const bool is_long = options_.positions_original > 0 && length > options_.positions_original;
  return is_long ? RopeRegime::kLong : RopeRegime::kShort;
}

void Scheduler::Add(SequenceGroup* group, int32_t choices, int64_t now_ns) {
  CHECK_GT(group->prompt_tokens(), 0);
  CHECK_GT(group->max_tokens, 0);
  CHECK_LE(choices, options_.sequences_max);
  CHECK_LE(BlocksMax(group->prompt_tokens(), group->max_tokens, choices), pool_->blocks_total());
  CHECK_LT(last_arrival_, group->arrival);
  last_arrival_ = group->arrival;
  planned_ahead_ = false;
  const RopeRegime regime = RegimeOf(group->prompt_tokens(), group->max_tokens);
  group->sequences.resize(choices);
  for (int32_t choice = 0; choice < choices; ++choice) {
    Sequence& sequence = group->sequences[choice];
    sequence.choice = choice;
    sequence.prompt_tokens = group->prompt_tokens();
    sequence.prefill_end = group->prompt_tokens();
    sequence.regime = regime;
  }
  queue_.Enter(group, now_ns);
}

void Scheduler::Remove(SequenceGroup* group, bool tainted) {
  planned_ahead_ = false;
  queue_.Leave(group);
  for (Sequence& sequence : group->sequences) {
    if (sequence.finished) continue;
    if (tainted) sequence.blocks.ClearTainted();
    Finish(&sequence, group);
  }
  if (!group->running) return;
  group->running = false;
  running_.erase(std::find(running_.begin(), running_.end(), group));
}

const StepPlan& Scheduler::PlanStep(int64_t now_ns) {
  now_ns_ = now_ns;
  if (!std::exchange(planned_ahead_, false)) Plan();
  FinishPlan();
  return *plan_;
}

void Scheduler::Plan() {
  plan_->Clear();
  budget_.Start();
  const bool gave_way = MakeBatchGiveWay();
  const int32_t preemptions = plan_->preemptions;
  MakeRoomForDecodes();
  PlanDecodes();
  // Blocks that were just taken from somebody are not for newcomers, nor for the one they came
  // from.
  const bool pressed = plan_->preemptions > preemptions;
  const int32_t classes = pressed ? 0 : gave_way ? kPriorityClasses - 1 : kPriorityClasses;
  PlanPrompts(classes);
  if (plan_->empty() && classes < kPriorityClasses) PlanPrompts(kPriorityClasses);
  if (plan_->empty()) Rescue();
}

void Scheduler::PlanDecodes() {
  for (SequenceGroup* group : running_) {
    for (Sequence& sequence : group->sequences) {
      if (!sequence.ready_to_decode()) continue;
      PlanEntry entry;
      entry.group = group;
      entry.sequence = &sequence;
      entry.first = sequence.computed;
      entry.tokens = 1;
      entry.phase = Phase::kDecode;
      entry.draws = true;
      ++plan_->decode_tokens;
      budget_.AddDecode(entry.first);
      AddEntry(entry);
    }
  }
}

// Prompts under way go on and those that wait start, in one order. Of the first `classes` classes
// somebody may start.
void Scheduler::PlanPrompts(int32_t classes) {
  GatherReady(classes);
  const int32_t oldest_entry = oldest_had_all_ ? -1 : PlanOldest();
  plan_->oldest_has_all = oldest_entry >= 0;  // unless the first in line gets something, too
  const SequenceGroup* oldest = oldest_entry >= 0 ? plan_->entries[oldest_entry].group : nullptr;
  bool is_first = true;
  bool held_back = false;
  while (!ready_.empty() && !budget_.spent()) {
    std::pop_heap(ready_.begin(), ready_.end(), Behind);
    const auto [order, group] = ready_.back();
    ready_.pop_back();
    if (!group->running) {
      // Its class was overdue, and somebody else of it has started in this step.
      if (order < queue_.OrderOf(*group, now_ns_)) {
        PushReady(group);
        continue;
      }
      if (held_back || !TryStart(group)) {
        held_back = true;
        continue;
      }
      if (SequenceGroup* next = queue_.Next(*group->lane, now_ns_)) PushReady(next);
    }
    if (group == oldest) TakeBack(oldest_entry);
    const size_t entries = plan_->entries.size();
    PlanCatchUps(group);
    if (std::exchange(is_first, false) && plan_->entries.size() > entries) {
      plan_->oldest_has_all = false;
    }
  }
  ready_.clear();
}

void Scheduler::GatherReady(int32_t classes) {
  ready_.clear();
  for (SequenceGroup* group : running_) {
    const auto must = [&](const Sequence& sequence) { return group->MustCatchUp(sequence); };
    if (std::any_of(group->sequences.begin(), group->sequences.end(), must)) PushReady(group);
  }
  if (sequences_running_ == options_.sequences_max) return;
  for (const FairLane* lane : queue_.lanes_waiting()) {
    if (static_cast<int32_t>(lane->priority_class) >= classes) continue;
    if (SequenceGroup* group = queue_.Next(*lane, now_ns_)) PushReady(group);
  }
}

void Scheduler::PushReady(SequenceGroup* group) {
  ready_.push_back({queue_.OrderOf(*group, now_ns_), group});
  std::push_heap(ready_.begin(), ready_.end(), Behind);
}

// A block for the prompt that has been under way longest, if others come before it. Its place among
// the plan's entries; -1: it needs none.
int32_t Scheduler::PlanOldest() {
  if (ready_.size() < 2) return -1;
  for (SequenceGroup* group : running_) {
    for (Sequence& sequence : group->sequences) {
      if (!group->MustCatchUp(sequence)) continue;
      if (ready_.front().group == group) return -1;
      if (!PlanCatchUp(group, &sequence, options_.block_tokens)) return -1;
      return static_cast<int32_t>(plan_->entries.size()) - 1;
    }
  }
  return -1;
}

// Its turn has come, and more fits.
void Scheduler::TakeBack(int32_t index) {
  const PlanEntry& entry = plan_->entries[index];
  budget_.TakeBackPrompt(entry.first, entry.end(), entry.phase);
  plan_->tokens -= entry.tokens;
  plan_->logit_rows -= entry.logit_rows();
  plan_->entries.erase(plan_->entries.begin() + index);
}

void Scheduler::PlanCatchUps(SequenceGroup* group) {
  for (Sequence& sequence : group->sequences) {
    if (budget_.spent()) return;
    if (group->MustCatchUp(sequence)) PlanCatchUp(group, &sequence, kUnlimited);
  }
}

void Scheduler::FinishPlan() {
  for (const PlanEntry& entry : plan_->entries) {
    if (entry.sequence->copy_from < 0) continue;
    plan_->copy_from.push_back(entry.sequence->copy_from);
    plan_->copy_to.push_back(entry.sequence->copy_to);
  }
  // A step that does not run zeroes nothing: what must be zeroed waits for one that does.
  if (!plan_->empty()) pool_->TakeZeroWork(&plan_->zero_blocks);
}

void Scheduler::NoteLaunched() {
  oldest_had_all_ = plan_->oldest_has_all;
  for (const PlanEntry& entry : plan_->entries) {
    Sequence& sequence = *entry.sequence;
    SequenceGroup& group = *entry.group;
    CHECK_EQ(sequence.computed, entry.first);
    sequence.computed = entry.end();
    sequence.copy_from = sequence.copy_to = -1;
    group.prompt_scored = std::max(group.prompt_scored, entry.score_end);
    if (group.Leads(sequence) && sequence.computed == sequence.prompt_tokens) Fork(&group);
    sequence.drawing = entry.draws;
    if (!entry.draws_for_all) continue;
    for (Sequence& other : group.sequences) other.drawing = !other.finished;
  }
}

void Scheduler::Continue(Sequence* sequence, SequenceGroup* group) {
  CHECK_EQ(sequence->computed, sequence->length() - 1);
  if (!Crosses(*sequence)) return;
  planned_ahead_ = false;
  Cross(sequence, *group);
}

void Scheduler::SetStalled(Sequence* sequence, bool stalled) {
  planned_ahead_ = false;
  sequence->stalled = stalled;
}

void Scheduler::Finish(Sequence* sequence, SequenceGroup* group) {
  CHECK(!sequence->finished);
  planned_ahead_ = false;
  sequence->finished = true;
  sequence->blocks.Clear();
  if (group->running) --sequences_running_;
}

// Blocks for the sequence's first `tokens` positions, and a block of its own where it writes next.
// All or nothing: a copy that waited for a later step might find its source rewritten.
bool Scheduler::TryExtend(Sequence* sequence, const SequenceGroup& group, int32_t tokens) {
  const bool shared = SharesItsWriteBlock(*sequence);
  const int32_t missing = std::max(0, BlocksFor(tokens) - sequence->blocks.size());
  if (missing + shared > pool_->blocks_free()) return false;
  if (shared) {
    CHECK(pool_->TryMakeOwn(WriteBlock(*sequence), group.tenant, &sequence->blocks,
                            &sequence->copy_from, &sequence->copy_to));
  }
  CHECK(pool_->TryTake(missing, group.tenant, &sequence->blocks));
  return true;
}

bool Scheduler::SharesItsWriteBlock(const Sequence& sequence) const {
  const int32_t block = WriteBlock(sequence);
  return block < sequence.blocks.size() && pool_->references(sequence.blocks.blocks()[block]) > 1;
}

// A chunk, of at most tokens_max, for a sequence that has more than one token to compute. False
// when it got none.
bool Scheduler::PlanCatchUp(SequenceGroup* group, Sequence* sequence, int32_t tokens_max) {
  const int32_t end =
      sequence->computed < sequence->prefill_end ? sequence->prefill_end : sequence->length();
  const int32_t free = std::max(0, pool_->blocks_free() - growth_blocks());
  const int64_t held =
      int64_t{sequence->blocks.size() + free} * options_.block_tokens - sequence->computed;
  const Phase phase = sequence->computed < sequence->prefill_end ? Phase::kPrefill : Phase::kDecode;
  const int32_t tokens = budget_.Fits(
      sequence->computed,
      static_cast<int32_t>(std::min<int64_t>({end - sequence->computed, held, tokens_max})), phase);
  PlanEntry entry = MakeCatchUp(group, sequence, tokens);
  LimitToRows(&entry);
  while (entry.tokens > 0 && !TryExtend(sequence, *group, entry.end())) {
    entry = MakeCatchUp(group, sequence, entry.tokens - 1);  // a copied block took one of them
  }
  if (entry.tokens <= 0) return false;
  budget_.AddPrompt(entry.first, entry.end(), entry.phase);
  AddEntry(entry);
  return true;
}

PlanEntry Scheduler::MakeCatchUp(SequenceGroup* group, Sequence* sequence, int32_t tokens) const {
  PlanEntry entry;
  entry.group = group;
  entry.sequence = sequence;
  entry.first = sequence->computed;
  entry.tokens = std::max(0, tokens);
  entry.phase = entry.first < sequence->prefill_end ? Phase::kPrefill : Phase::kDecode;
  entry.draws = entry.end() == sequence->length();
  entry.draws_for_all = entry.draws && group->Leads(*sequence);
  if (group->wants_prompt_logprobs && group->IsFirstLive(*sequence)) {
    // The last prompt position has no next prompt token to score.
    const int32_t score_end = std::min(entry.end(), group->prompt_tokens() - 1);
    const int32_t score_first = std::max(entry.first, group->prompt_scored);
    if (score_first < score_end) {
      entry.score_first = score_first;
      entry.score_end = score_end;
    }
  }
  return entry;
}

// Each scored position takes a logit row: the chunk ends where the rows do.
void Scheduler::LimitToRows(PlanEntry* entry) const {
  const int32_t rows_left = options_.logit_rows_max - plan_->logit_rows;
  if (entry->logit_rows() <= rows_left) return;
  const int32_t excess = entry->logit_rows() - rows_left;
  *entry = MakeCatchUp(entry->group, entry->sequence, entry->tokens - excess);
  CHECK_LE(entry->logit_rows(), rows_left);
}

void Scheduler::AddEntry(const PlanEntry& entry) {
  plan_->entries.push_back(entry);
  plan_->tokens += entry.tokens;
  plan_->logit_rows += entry.logit_rows();
}

// What the prefix cache has of the prompt, to hits_. Its last position is computed in any case: the
// first token is drawn from it. What is pinned owns its blocks alone; prompt log-probabilities need
// every position's logits; and a choice beyond a LongRoPE crossing has other keys.
void Scheduler::FindHits(const SequenceGroup& group) {
  hits_.clear();
  if (group.pinned || group.wants_prompt_logprobs || group.prefix_keys.empty()) return;
  for (const Sequence& sequence : group.sequences) {
    if (sequence.finished || sequence.crossed()) continue;
    cache_.Find({group.prefix_keys, group.prompt, group.tenant, sequence.regime},
                (group.prompt_tokens() - 1) / options_.block_tokens, &hits_);
    return;
  }
}

void Scheduler::AdoptHits(SequenceGroup* group) {
  if (group->preemptions == 0 && !group->wants_prompt_logprobs && !group->prefix_keys.empty()) {
    prefix_counts_.prompt_tokens += group->prompt_tokens();
    prefix_counts_.hit_tokens += static_cast<int64_t>(hits_.size()) * options_.block_tokens;
  }
  if (hits_.empty()) return;
  Sequence& leader = group->sequences[group->leader];
  pool_->Adopt(hits_, &leader.blocks);
  leader.computed = leader.blocks.size() * options_.block_tokens;
  // What it had computed itself, before a preemption, is no gift.
  group->cached_tokens += std::max(0, leader.computed - leader.recompute_end);
}

void Scheduler::KeepPrompt(const SequenceGroup& group, const Sequence& sequence) {
  if (group.pinned || group.prefix_keys.empty() || sequence.crossed()) return;
  cache_.Insert({group.prefix_keys, group.prompt, group.tenant, sequence.regime},
                sequence.blocks.blocks());
}

// Blocks that the group takes from the free ones as it starts: a pinned one all it will ever need;
// one that lost its place all it had, to come back for good; a newcomer those of its first chunk.
int64_t Scheduler::BlocksToStart(const SequenceGroup& group) {
  FindHits(group);
  if (group.pinned) return int64_t{group.live_sequences()} * BlocksFor(group.tokens_max());
  const int32_t hits = static_cast<int32_t>(hits_.size());
  int64_t blocks = growth_blocks() - hits;
  for (const int32_t block : hits_) blocks += pool_->references(block) == 0;
  if (group.preemptions == 0) {
    const int32_t first = hits * options_.block_tokens;
    const int32_t chunk = budget_.Fits(first, group.prompt_tokens() - first, Phase::kPrefill);
    return blocks + BlocksFor(first + chunk);
  }
  for (const Sequence& sequence : group.sequences) {
    if (!sequence.finished) blocks += BlocksFor(sequence.length());
  }
  return blocks;
}

bool Scheduler::CanStart(const SequenceGroup& group) {
  return sequences_running_ + group.live_sequences() <= options_.sequences_max &&
         BlocksToStart(group) <= pool_->blocks_free();
}

// Gives the group its places, and a pinned one its blocks. False when there are not enough; nothing
// has changed then.
bool Scheduler::TryStart(SequenceGroup* group) {
  if (!CanStart(*group)) return false;
  queue_.Start(group, now_ns_);
  SetUpSequences(group);
  ChooseLeader(group);
  AdoptHits(group);
  group->running = true;
  sequences_running_ += group->live_sequences();
  const auto behind = [](const SequenceGroup* a, const SequenceGroup* b) {
    return a->arrival < b->arrival;
  };
  running_.insert(std::upper_bound(running_.begin(), running_.end(), group, behind), group);
  return true;
}

// All memory that the sequences will need, so that no later step allocates.
void Scheduler::SetUpSequences(SequenceGroup* group) {
  const int32_t blocks_max = BlocksFor(group->tokens_max());
  for (Sequence& sequence : group->sequences) {
    if (sequence.finished) continue;
    if (sequence.tokens.empty()) {
      sequence.tokens.reserve(group->tokens_max());
      sequence.tokens.assign(group->prompt.begin(), group->prompt.end());
      sequence.blocks.Reserve(blocks_max);
    }
    if (group->pinned) CHECK(pool_->TryTake(blocks_max, group->tenant, &sequence.blocks));
  }
}

// Choices share the prompt: one prefills it, the others take its blocks over. Those beyond a
// LongRoPE crossing have other keys; and what is pinned owns its blocks alone.
void Scheduler::ChooseLeader(SequenceGroup* group) {
  group->leader = -1;
  if (group->pinned) return;
  for (Sequence& sequence : group->sequences) {
    if (sequence.finished || sequence.crossed()) continue;
    if (group->leader < 0) {
      group->leader = sequence.choice;
    } else {
      sequence.follows = true;
    }
  }
}

void Scheduler::Fork(SequenceGroup* group) {
  const Sequence& leader = group->sequences[group->leader];
  for (Sequence& sequence : group->sequences) {
    if (!sequence.follows) continue;
    pool_->Share(leader.blocks, BlocksFor(leader.prompt_tokens), &sequence.blocks);
    sequence.computed = leader.computed;
    sequence.follows = false;
  }
  group->leader = -1;
}

bool Scheduler::Crosses(const Sequence& sequence) const {
  return options_.positions_original > 0 && options_.rope_policy == RopePolicy::kExact &&
         sequence.regime == RopeRegime::kShort && sequence.length() > options_.positions_original;
}

// The sequence outgrew the short regime: every key so far was made with the wrong factors. It gives
// its blocks back and prefills anew, as any prompt does, and pays for it.
void Scheduler::Cross(Sequence* sequence, const SequenceGroup& group) {
  if (!group.pinned) sequence->blocks.Clear();
  sequence->computed = 0;
  sequence->recompute_end = 0;
  sequence->prefill_end = sequence->length();
  sequence->regime = RopeRegime::kLong;
}

// Blocks that prefill leaves free for those who decode: a quarter of a block each, that is four
// steps' growth at 16 tokens a block. Without it a prompt takes the last block and is itself
// preempted in the next step.
int32_t Scheduler::growth_blocks() const { return (plan_->decode_tokens + 3) / 4; }

}  // namespace tuppence
