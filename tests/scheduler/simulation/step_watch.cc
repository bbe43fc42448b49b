#include "tests/scheduler/simulation/step_watch.h"

#include <algorithm>
#include <utility>

#include "tests/scheduler/simulation/violation.h"

namespace tuppence::simulation {

StepWatch::StepWatch(const EngineOptions& options)
    : options_(options), model_(options.cost, options.sequences_max + 1) {}

void StepWatch::StepPlanned(const Engine& engine, std::span<const Chunk> chunks,
                            const FairWatch& fair_watch, int64_t now_ns) {
  planned_ = true;
  begin_ns_ = engine.ledger().last_cut_ns();
  // A plan made ahead was made with the costs of the step before.
  const bool was_in_time = IsInTime(chunks);
  model_.set_coefficients(engine.ledger().model().coefficients());
  Require(was_in_time || IsInTime(chunks),
          "a step is modelled to hold running streams up too long");
  CheckTurns(engine, chunks, fair_watch, now_ns);
  NotePlayers(chunks);
}

bool StepWatch::IsInTime(std::span<const Chunk> chunks) const {
  if (options_.itl_target_ns == 0) return true;
  StepWork all;
  StepWork decodes;
  for (const Chunk& chunk : chunks) {
    const StepWork work = WorkOf(chunk.first, chunk.end, chunk.phase);
    all.Add(work);
    if (chunk.sequence->ready_to_decode()) decodes.Add(work);
  }
  if (decodes.tokens == 0) return true;
  const double target_ns = static_cast<double>(options_.itl_target_ns);
  const double decodes_ns = model_.StepNs(decodes);
  double most_ns = std::max(target_ns, (decodes_ns > target_ns ? 3 : 2) * decodes_ns);
  for (const Chunk& chunk : chunks) {
    if (chunk.sequence->ready_to_decode()) continue;
    StepWork with_block = decodes;
    with_block.Add(
        WorkOf(chunk.first, std::min(chunk.end, chunk.first + options_.block_tokens), chunk.phase));
    most_ns = std::max(most_ns, model_.StepNs(with_block));
  }
  return model_.StepNs(all) <= most_ns;
}

// Where somebody lost their place nobody starts, and who started was the first until then.
void StepWatch::CheckTurns(const Engine& engine, std::span<const Chunk> chunks,
                           const FairWatch& fair_watch, int64_t now_ns) {
  const FairQueue& queue = engine.scheduler().queue();
  const SequenceGroup* oldest = nullptr;
  const SequenceGroup* first = queue.First(now_ns);
  for (const SequenceGroup* group : engine.scheduler().running_groups()) {
    const auto must = [&](const Sequence& sequence) { return group->MustCatchUp(sequence); };
    if (std::none_of(group->sequences.begin(), group->sequences.end(), must)) continue;
    if (oldest == nullptr) oldest = group;
    if (first == nullptr || queue.OrderOf(*group, now_ns) < queue.OrderOf(*first, now_ns)) {
      first = group;
    }
  }
  int32_t decodes = 0;
  for (const Chunk& chunk : chunks) {
    decodes += chunk.sequence->ready_to_decode();
    if (chunk.request == oldest) oldest = nullptr;
    if (chunk.request == first) first = nullptr;
  }
  if (fair_watch.somebody_lost()) oldest = nullptr;
  if (fair_watch.somebody_lost() || fair_watch.somebody_started()) first = nullptr;
  const auto passed_over = [&](const SequenceGroup* group) {
    return group != nullptr && CouldBeServed(engine, *group, decodes) ? group : nullptr;
  };
  NotePassedOver(passed_over(oldest), &oldest_);
  NotePassedOver(passed_over(first), &first_);
  Require(oldest_.steps < 2, "the prompt that has been under way longest does not get on");
  // What was planned ahead went by the clocks of the step before, and so may have the one after it.
  Require(first_.steps < 4, "the first in line is passed over");
}

// There is room even after all that the step took.
bool StepWatch::CouldBeServed(const Engine& engine, const SequenceGroup& group,
                              int32_t decodes) const {
  if (group.wants_prompt_logprobs) return false;  // rows of logits may be short
  const int32_t each = (group.tokens_max() + options_.block_tokens - 1) / options_.block_tokens;
  const int32_t live = group.live_sequences();
  // What decodes leave to prompts, as scheduler.cc has it.
  const int32_t blocks = engine.pool().blocks_free() - (decodes + 3) / 4;
  if (group.running) return blocks >= 2;  // one of its own for a shared one, and a new one
  return engine.scheduler().places_free() >= live && blocks >= live * each;
}

void StepWatch::NotePassedOver(const SequenceGroup* group, PassedOver* passed_over) {
  if (group == nullptr) {
    *passed_over = PassedOver();
  } else if (group->arrival == passed_over->arrival) {
    ++passed_over->steps;
  } else {
    *passed_over = {.arrival = group->arrival, .steps = 1};
  }
}

void StepWatch::NotePlayers(std::span<const Chunk> chunks) {
  players_.clear();
  works_.clear();
  for (const Chunk& chunk : chunks) {
    const auto before = computed_.find({chunk.request->arrival, chunk.sequence->choice});
    const int32_t computed = before == computed_.end() ? 0 : before->second.end;
    const int32_t again_end = std::clamp(computed, chunk.first, chunk.end);
    if (again_end > chunk.first) {
      WorkOfPlayer("")->Add(WorkOf(chunk.first, again_end, chunk.phase));
    }
    if (again_end < chunk.end) {
      WorkOfPlayer(chunk.request->request.id)->Add(WorkOf(again_end, chunk.end, chunk.phase));
    }
  }
}

StepWork* StepWatch::WorkOfPlayer(const std::string& id) {
  const auto found = std::find(players_.begin(), players_.end(), id);
  if (found != players_.end()) return &works_[found - players_.begin()];
  players_.push_back(id);
  return &works_.emplace_back();
}

void StepWatch::StepEnded(const Engine& engine) {
  const int64_t step_ns = engine.ledger().last_cut_ns() - begin_ns_;
  // A step that failed is overhead.
  if (std::exchange(planned_, false) && !engine.Snapshot().failed) NoteDues(step_ns);
  NoteComputed(engine.scheduler());
}

void StepWatch::NoteDues(int64_t step_ns) {
  std::vector<StepShare> shares(works_.size());
  model_.Divide(works_, shares);
  double all_ns = 0;
  for (const StepShare& share : shares) all_ns += share.shared_ns + share.own_ns;
  for (size_t i = 0; i < players_.size(); ++i) {
    if (players_[i].empty()) continue;
    const double part = (shares[i].shared_ns + shares[i].own_ns) / all_ns;
    due_ns_[players_[i]] += part * static_cast<double>(step_ns);
  }
}

// Beyond a LongRoPE crossing everything is computed for the first time.
void StepWatch::NoteComputed(const Scheduler& scheduler) {
  for (const SequenceGroup* group : scheduler.running_groups()) {
    for (const Sequence& sequence : group->sequences) {
      Computed& computed = computed_[{group->arrival, sequence.choice}];
      if (computed.regime != sequence.regime) computed = {.regime = sequence.regime, .end = 0};
      computed.end = std::max(computed.end, sequence.computed);
    }
  }
}

double StepWatch::DueNs(const std::string& id) const {
  const auto found = due_ns_.find(id);
  return found == due_ns_.end() ? 0 : found->second;
}

}  // namespace tuppence::simulation
