#include "scheduler/scheduler.h"

#include <algorithm>

#include "model/check.h"

namespace tuppence {
namespace {

// Positions that would have to be computed again: the shared prompt once, the rest for each choice.
int64_t RecomputeTokens(const SequenceGroup& group) {
  int64_t shared = 0;
  int64_t own = 0;
  for (const Sequence& sequence : group.sequences) {
    if (sequence.finished) continue;
    if (sequence.crossed()) {
      own += sequence.computed;
    } else {
      shared = std::max<int64_t>(shared, std::min(sequence.computed, sequence.prompt_tokens));
      own += std::max(0, sequence.computed - sequence.prompt_tokens);
    }
  }
  return shared + own;
}

bool HoldsBlocks(const SequenceGroup& group) {
  for (const Sequence& sequence : group.sequences) {
    if (!sequence.blocks.empty()) return true;
  }
  return false;
}

bool ReadyToDecode(const Sequence& sequence) {
  return !sequence.finished && !sequence.follows && !sequence.stalled && sequence.decodes();
}

bool Leads(const SequenceGroup& group, const Sequence& sequence) {
  return group.leader == sequence.choice;
}

// Has more than its newest token to compute. A leader prefills even while its own reader is slow:
// the others wait for it, and it draws nothing that its reader has no room for.
bool MustCatchUp(const SequenceGroup& group, const Sequence& sequence) {
  if (sequence.finished || sequence.follows || sequence.decodes()) return false;
  return !sequence.stalled || Leads(group, sequence);
}

// Prompt positions are scored for one choice only.
bool IsFirstLive(const SequenceGroup& group, const Sequence& sequence) {
  for (const Sequence& other : group.sequences) {
    if (!other.finished) return &other == &sequence;
  }
  return false;
}

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options, BlockPool* pool)
    : options_(options), pool_(pool) {
  CHECK_GT(options.block_tokens, 0);
  CHECK_GT(options.sequences_max, 0);
  CHECK_GT(options.prefill_tokens_min, 0);
  CHECK_GE(options.step_tokens_max, options.prefill_tokens_min);
  CHECK_GE(options.logit_rows_max, options.sequences_max);
  CHECK_GT(options.preemptions_max, 0);
  running_.reserve(options.sequences_max);
  plan_.entries.reserve(options.sequences_max);
  plan_.zero_blocks.reserve(pool->blocks_total());
  plan_.copy_from.reserve(options.sequences_max);
  plan_.copy_to.reserve(options.sequences_max);
}

int64_t Scheduler::BlocksMax(int64_t prompt_tokens, int64_t max_tokens, int32_t choices) const {
  const int64_t tokens = prompt_tokens + max_tokens;
  return choices * ((tokens + options_.block_tokens - 1) / options_.block_tokens);
}

void Scheduler::Add(SequenceGroup* group, int32_t choices) {
  CHECK_GT(group->prompt_tokens(), 0);
  CHECK_GT(group->max_tokens, 0);
  CHECK_LE(choices, options_.sequences_max);
  CHECK_LE(BlocksMax(group->prompt_tokens(), group->max_tokens, choices), pool_->blocks_total());
  CHECK(waiting_.empty() || waiting_.rbegin()->first < group->arrival);
  CHECK(running_.empty() || running_.back()->arrival < group->arrival);
  const int32_t length =
      options_.rope_policy == RopePolicy::kExact ? group->prompt_tokens() : group->tokens_max();
  const bool is_long = options_.positions_original > 0 && length > options_.positions_original;
  group->sequences.resize(choices);
  for (int32_t choice = 0; choice < choices; ++choice) {
    Sequence& sequence = group->sequences[choice];
    sequence.choice = choice;
    sequence.prompt_tokens = group->prompt_tokens();
    sequence.prefill_end = group->prompt_tokens();
    sequence.regime = is_long ? RopeRegime::kLong : RopeRegime::kShort;
  }
  waiting_.emplace(group->arrival, group);
}

void Scheduler::Remove(SequenceGroup* group, bool tainted) {
  for (Sequence& sequence : group->sequences) {
    if (sequence.finished) continue;
    if (tainted) sequence.blocks.ClearTainted();
    Finish(&sequence, group);
  }
  if (!group->running) {
    waiting_.erase(group->arrival);
    return;
  }
  group->running = false;
  running_.erase(std::find(running_.begin(), running_.end(), group));
}

const StepPlan& Scheduler::PlanStep() {
  plan_.Clear();
  MakeRoomForDecodes();
  PlanDecodes();
  PlanPrefills();
  // Blocks that were just taken from somebody are not for newcomers, nor for the one they came
  // from.
  if (plan_.preemptions == 0 || plan_.empty()) StartWaiting();
  if (plan_.empty()) Rescue();
  FinishPlan();
  return plan_;
}

// Every decoding sequence gets the block its next token needs, the first to arrive first.
void Scheduler::MakeRoomForDecodes() {
  for (SequenceGroup* group : running_) {
    for (Sequence& sequence : group->sequences) {
      if (!group->running) break;  // a victim of somebody before it, or of itself
      if (!ReadyToDecode(sequence)) continue;
      while (group->running && !TryExtend(&sequence, *group, sequence.length())) {
        SequenceGroup* victim = PickVictim(/*spared=*/nullptr, /*stalled_only=*/false);
        CHECK(victim != nullptr);  // itself at least: a pinned group has all it needs
        Preempt(victim);
      }
    }
  }
  DropPreempted();
}

void Scheduler::PlanDecodes() {
  for (SequenceGroup* group : running_) {
    for (Sequence& sequence : group->sequences) {
      if (!ReadyToDecode(sequence)) continue;
      PlanEntry entry;
      entry.group = group;
      entry.sequence = &sequence;
      entry.first = sequence.computed;
      entry.tokens = 1;
      entry.phase = Phase::kDecode;
      entry.draws = true;
      ++plan_.decode_tokens;
      AddEntry(entry);
    }
  }
}

void Scheduler::PlanPrefills() {
  for (SequenceGroup* group : running_) {
    for (Sequence& sequence : group->sequences) {
      if (prefill_tokens_left() == 0) return;
      if (MustCatchUp(*group, sequence)) PlanCatchUp(group, &sequence);
    }
  }
}

// First come, first served: whoever cannot start holds back those behind it, so that a large
// request is not overtaken for ever. A request whose reader is slow steps aside.
void Scheduler::StartWaiting() {
  for (auto next = waiting_.begin(); next != waiting_.end();) {
    SequenceGroup* group = next->second;
    if (prefill_tokens_left() == 0) return;
    if (group->all_stalled()) {
      ++next;
      continue;
    }
    if (!TryStart(group)) return;
    next = waiting_.erase(next);
    for (Sequence& sequence : group->sequences) {
      if (MustCatchUp(*group, sequence)) PlanCatchUp(group, &sequence);
    }
  }
}

// Nobody can run although somebody wants to: the blocks are held by half-done prompts or by choices
// whose readers are slow. The first in line takes them from the others.
void Scheduler::Rescue() {
  for (SequenceGroup* group : running_) {
    for (Sequence& sequence : group->sequences) {
      if (!MustCatchUp(*group, sequence)) continue;
      while (!PlanCatchUp(group, &sequence)) {
        SequenceGroup* victim = PickVictim(group, /*stalled_only=*/false);
        if (victim == nullptr) break;
        Preempt(victim);
      }
      DropPreempted();  // invalidates the loops' iterators: one rescue is all we came for
      return;
    }
  }
  // A waiting request may take only what slow readers hold.
  const bool someone_waits = std::any_of(waiting_.begin(), waiting_.end(), [](const auto& entry) {
    return !entry.second->all_stalled();
  });
  if (!someone_waits) return;
  while (plan_.empty()) {
    SequenceGroup* victim = PickVictim(/*spared=*/nullptr, /*stalled_only=*/true);
    if (victim == nullptr) return;
    Preempt(victim);
    DropPreempted();
    StartWaiting();
  }
}

void Scheduler::FinishPlan() {
  for (const PlanEntry& entry : plan_.entries) {
    if (entry.sequence->copy_from < 0) continue;
    plan_.copy_from.push_back(entry.sequence->copy_from);
    plan_.copy_to.push_back(entry.sequence->copy_to);
  }
  // A step that does not run zeroes nothing: what must be zeroed waits for one that does.
  if (!plan_.empty()) pool_->TakeZeroWork(&plan_.zero_blocks);
}

void Scheduler::CompleteStep() {
  for (const PlanEntry& entry : plan_.entries) {
    Sequence& sequence = *entry.sequence;
    SequenceGroup& group = *entry.group;
    CHECK_EQ(sequence.computed, entry.first);
    sequence.computed = entry.end();
    sequence.copy_from = sequence.copy_to = -1;
    group.prompt_scored = std::max(group.prompt_scored, entry.score_end);
    if (Leads(group, sequence) && sequence.computed == sequence.prompt_tokens) Fork(&group);
  }
}

void Scheduler::Continue(Sequence* sequence, SequenceGroup* group) {
  CHECK_EQ(sequence->computed, sequence->length() - 1);
  const bool crosses =
      options_.positions_original > 0 && options_.rope_policy == RopePolicy::kExact &&
      sequence->regime == RopeRegime::kShort && sequence->length() > options_.positions_original;
  if (crosses) Cross(sequence, *group);
}

void Scheduler::Finish(Sequence* sequence, SequenceGroup* group) {
  CHECK(!sequence->finished);
  sequence->finished = true;
  sequence->blocks.Clear();
  if (group->running) --sequences_running_;
}

// Blocks for the sequence's first `tokens` positions, and a block of its own where it writes next.
// All or nothing: a copy that waited for a later step might find its source rewritten.
bool Scheduler::TryExtend(Sequence* sequence, const SequenceGroup& group, int32_t tokens) {
  const int32_t write_block = sequence->computed / options_.block_tokens;
  const bool shared = write_block < sequence->blocks.size() &&
                      pool_->references(sequence->blocks.blocks()[write_block]) > 1;
  const int32_t missing = std::max(0, BlocksFor(tokens) - sequence->blocks.size());
  if (missing + shared > pool_->blocks_free()) return false;
  if (shared) {
    CHECK(pool_->TryMakeOwn(write_block, group.tenant, &sequence->blocks, &sequence->copy_from,
                            &sequence->copy_to));
  }
  CHECK(pool_->TryTake(missing, group.tenant, &sequence->blocks));
  return true;
}

// A chunk for a sequence that has more than one token to compute. False when it got none.
bool Scheduler::PlanCatchUp(SequenceGroup* group, Sequence* sequence) {
  const int32_t end =
      sequence->computed < sequence->prefill_end ? sequence->prefill_end : sequence->length();
  const int32_t free = std::max(0, pool_->blocks_free() - growth_blocks());
  const int64_t held =
      int64_t{sequence->blocks.size() + free} * options_.block_tokens - sequence->computed;
  const int32_t tokens = static_cast<int32_t>(
      std::min<int64_t>({end - sequence->computed, prefill_tokens_left(), held}));
  PlanEntry entry = MakeCatchUp(group, sequence, tokens);
  LimitToRows(&entry);
  while (entry.tokens > 0 && !TryExtend(sequence, *group, entry.end())) {
    entry = MakeCatchUp(group, sequence, entry.tokens - 1);  // a copied block took one of them
  }
  if (entry.tokens <= 0) return false;
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
  entry.draws_for_all = entry.draws && Leads(*group, *sequence);
  if (group->wants_prompt_logprobs && IsFirstLive(*group, *sequence)) {
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
  const int32_t rows_left = options_.logit_rows_max - plan_.logit_rows;
  const auto rows = [](const PlanEntry& e) { return e.score_end - e.score_first + e.draws; };
  if (rows(*entry) <= rows_left) return;
  const int32_t excess = rows(*entry) - rows_left;
  *entry = MakeCatchUp(entry->group, entry->sequence, entry->tokens - excess);
  CHECK_LE(rows(*entry), rows_left);
}

void Scheduler::AddEntry(const PlanEntry& entry) {
  plan_.entries.push_back(entry);
  plan_.tokens += entry.tokens;
  plan_.logit_rows += entry.score_end - entry.score_first + entry.draws;
}

// Gives the group its places, and a pinned one all blocks it will ever need. False when there are
// not enough; nothing has changed then.
bool Scheduler::TryStart(SequenceGroup* group) {
  const int32_t live = group->live_sequences();
  if (sequences_running_ + live > options_.sequences_max) return false;
  const int32_t free = pool_->blocks_free();
  if (group->pinned) {
    if (live * BlocksFor(group->tokens_max()) > free) return false;
  } else if (group->preemptions > 0) {
    // It comes back for good, not to lose its place again at the next block.
    int64_t blocks = 0;
    for (const Sequence& sequence : group->sequences) {
      if (!sequence.finished) blocks += BlocksFor(sequence.length());
    }
    if (blocks > free - growth_blocks()) return false;
  } else {
    const int32_t chunk = std::min(group->prompt_tokens(), prefill_tokens_left());
    if (BlocksFor(chunk) > free - growth_blocks()) return false;
  }
  SetUpSequences(group);
  ChooseLeader(group);
  group->running = true;
  sequences_running_ += live;
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

// The least to recompute; of equals the last to arrive. Null when there is nobody.
SequenceGroup* Scheduler::PickVictim(const SequenceGroup* spared, bool stalled_only) const {
  SequenceGroup* victim = nullptr;
  int64_t least = 0;
  for (SequenceGroup* group : running_) {
    if (!group->running || group->pinned || group == spared || !HoldsBlocks(*group)) continue;
    if (stalled_only && !group->all_stalled()) continue;
    const int64_t tokens = RecomputeTokens(*group);
    if (victim != nullptr && tokens > least) continue;
    victim = group;
    least = tokens;
  }
  return victim;
}

// Back to the queue, at its old place. It stays in running_ until DropPreempted.
void Scheduler::Preempt(SequenceGroup* group) {
  for (Sequence& sequence : group->sequences) {
    if (sequence.finished) continue;
    sequence.recompute_end = std::max(sequence.recompute_end, sequence.computed);
    sequence.computed = 0;
    sequence.follows = false;
    sequence.copy_from = sequence.copy_to = -1;
    sequence.blocks.Clear();
  }
  sequences_running_ -= group->live_sequences();
  group->running = false;
  group->leader = -1;
  ++group->preemptions;
  group->pinned = group->preemptions >= options_.preemptions_max;
  waiting_.emplace(group->arrival, group);
  ++plan_.preemptions;
}

void Scheduler::DropPreempted() {
  std::erase_if(running_, [](const SequenceGroup* group) { return !group->running; });
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

// What decode leaves of the step's tokens, and never less than prefill's floor.
int32_t Scheduler::prefill_tokens_left() const {
  const int32_t budget =
      std::max(options_.step_tokens_max - plan_.decode_tokens, options_.prefill_tokens_min);
  return budget - (plan_.tokens - plan_.decode_tokens);
}

// Blocks that prefill leaves free for those who decode: a quarter of a block each, that is four
// steps' growth at 16 tokens a block. Without it a prompt takes the last block and is itself
// preempted in the next step.
int32_t Scheduler::growth_blocks() const { return (plan_.decode_tokens + 3) / 4; }

}  // namespace tuppence
