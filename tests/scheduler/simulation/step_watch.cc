#include "tests/scheduler/simulation/step_watch.h"

#include <algorithm>
#include <utility>

#include "tests/scheduler/simulation/violation.h"

namespace tuppence::simulation {

StepWatch::StepWatch(const EngineOptions& options)
    : options_(options), model_(options.cost, options.sequences_max + 1) {}

void StepWatch::StepPlanned(const Engine& engine, std::span<const Chunk> chunks) {
  planned_ = true;
  begin_ns_ = engine.ledger().last_cut_ns();
  // A plan made ahead was made with the costs of the step before.
  const bool was_in_time = IsInTime(chunks);
  model_.set_coefficients(engine.ledger().model().coefficients());
  Require(was_in_time || IsInTime(chunks),
          "a step is modelled to hold running streams up too long");
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
