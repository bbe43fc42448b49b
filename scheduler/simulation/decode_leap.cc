#include "scheduler/simulation/decode_leap.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "model/check.h"

namespace tuppence {

int64_t DecodeLeap::Run(int64_t until_ns) {
  Engine& engine = *engine_;
  if (!NobodyMayStart() || engine.draining_ || !engine.failure_.ok()) return 0;
  const int64_t steps_max = Gather();
  until_ns = std::min(until_ns, engine.next_alarm_ns_);
  step_ends_ns_.clear();
  while (static_cast<int64_t>(step_ends_ns_.size()) < steps_max && clock_->NowNs() < until_ns) {
    if (steps_to_border_ == 0 && !Extend()) break;
    CountBlocks();
    clock_->Advance(device_->StepNs(work_));
    Charge(clock_->NowNs());
    --steps_to_border_;
    step_ends_ns_.push_back(clock_->NowNs());
  }
  const int64_t steps = static_cast<int64_t>(step_ends_ns_.size());
  if (steps == 0) return 0;
  Deliver(steps);
  engine.scheduler_.PlanAhead();  // as the last of them would have
  engine.CloseStep(clock_->NowNs());
  return steps;
}

// Nobody waits; or somebody does, and neither a place is free nor batch work there to take one
// from.
bool DecodeLeap::NobodyMayStart() const {
  const Scheduler& scheduler = engine_->scheduler_;
  if (scheduler.waiting() == 0) return true;
  if (scheduler.places_free() > 0) return false;
  const std::vector<SequenceGroup*>& running = scheduler.running_groups();
  return std::none_of(running.begin(), running.end(), [](const SequenceGroup* group) {
    return group->priority_class == PriorityClass::kBatch;
  });
}

// Who runs, and for how many steps each of them does nothing but decode; 0 where somebody does not.
int64_t DecodeLeap::Gather() {
  const EngineOptions& options = engine_->options_;
  runners_.clear();
  players_.clear();
  work_ = StepWork();
  all_counted_ = false;
  int64_t steps = std::numeric_limits<int32_t>::max();
  int32_t to_border = std::numeric_limits<int32_t>::max();
  for (SequenceGroup* group : engine_->scheduler_.running_groups()) {
    ActiveRequest* request = static_cast<ActiveRequest*>(group);
    CHECK_EQ(group->sequences.size(), 1u);
    CHECK(request->request.stop_ids.empty());
    Sequence& sequence = group->sequences[0];
    if (!sequence.ready_to_decode() || sequence.recompute_end > sequence.computed) return 0;
    steps = std::min<int64_t>(steps, group->max_tokens - sequence.output_tokens() - 1);
    if (options.positions_original > 0 && sequence.regime == RopeRegime::kShort) {
      steps = std::min<int64_t>(steps, options.positions_original - sequence.length());
    }
    const int32_t fits =
        sequence.blocks.size() * options.block_tokens - sequence.computed;  // positions
    runners_.push_back({request, &sequence, fits});  // it may have been given a block ahead
    to_border = std::min(to_border, fits);
    const StepWork work = WorkOf(sequence.computed, sequence.computed + 1, Phase::kDecode);
    players_.push_back({&request->charges, request->arrival, {}, work});
    work_.Add(work);
  }
  steps_to_border_ = to_border;
  return runners_.empty() ? 0 : steps;
}

// A block for each that needs one, in the order in which the scheduler gives them. False, and
// nothing has changed, when there are not enough: somebody has to go.
bool DecodeLeap::Extend() {
  const int64_t done = static_cast<int64_t>(step_ends_ns_.size());
  const auto at_border = [done](const Runner& runner) { return runner.steps_to_border == done; };
  BlockPool& pool = engine_->pool_;
  if (std::count_if(runners_.begin(), runners_.end(), at_border) > pool.blocks_free()) return false;
  int64_t next = std::numeric_limits<int64_t>::max();
  for (Runner& runner : runners_) {
    if (at_border(runner)) {
      CHECK(pool.TryTake(1, runner.request->tenant, &runner.sequence->blocks));
      runner.steps_to_border += engine_->options_.block_tokens;
      runner.counted = false;
    }
    next = std::min<int64_t>(next, runner.steps_to_border - done);
  }
  steps_to_border_ = next;
  all_counted_ = false;
  return true;
}

// As each step begins; those who hold what they held may be left out.
void DecodeLeap::CountBlocks() {
  if (std::exchange(all_counted_, true)) return;
  for (Runner& runner : runners_) {
    if (std::exchange(runner.counted, true)) continue;
    runner.request->CountBlocks(clock_->NowNs(), engine_->options_.block_tokens);
  }
}

// The step's time to those who were in it; each then has one key more.
void DecodeLeap::Charge(int64_t now_ns) {
  Engine& engine = *engine_;
  engine.ledger_.SetUnrecorded(engine.Unrecorded());
  const StepCharge charge = engine.ledger_.ChargeStep(players_, now_ns);
  const std::span<const int64_t> charges_ns = engine.ledger_.step_charges();
  for (size_t i = 0; i < runners_.size(); ++i) {
    engine.scheduler_.Charge(runners_[i].request, charges_ns[i]);
    ++players_[i].decode.query_keys;
    ++players_[i].decode.kv_read_tokens;
  }
  engine.ledger_.ClosePeriodIfDue(clock_->UtcNs());
  const int64_t sequences = static_cast<int64_t>(runners_.size());
  work_.query_keys += sequences;
  work_.kv_read_tokens += sequences;
  EngineSnapshot& counts = engine.counts_;
  ++counts.steps;
  counts.decode_tokens += sequences;
  counts.completion_tokens += sequences;
  counts.step_ns_last = charge.step_ns;
  counts.step_ns_sum += charge.step_ns;
  counts.step_ns_max = std::max(counts.step_ns_max, charge.step_ns);
}

// To each request everything that so many steps brought it.
void DecodeLeap::Deliver(int64_t steps) {
  Engine& engine = *engine_;
  for (const Runner& runner : runners_) {
    ActiveRequest& request = *runner.request;
    Sequence& sequence = *runner.sequence;
    sequence.computed += static_cast<int32_t>(steps);
    sequence.tokens.insert(sequence.tokens.end(), steps, RooflineExecutor::kToken);
    request.completion_tokens += steps;
    request.steps += steps;
    request.requests_in_steps += steps * static_cast<int64_t>(runners_.size());
    TokenStream& stream = *request.request.stream;
    for (int64_t i = 0; i < steps; ++i) {
      const TokenStream::Appended appended =
          stream.Append(0, RooflineExecutor::kToken, /*text=*/"", /*logprobs=*/nullptr);
      CHECK(appended.has_room);
      if (appended.notice) engine.ready_.push_back(request.request.stream);
    }
    int64_t before_ns = request.choices[0].last_token_ns;
    request.choices[0].last_token_ns = step_ends_ns_.back();
    if (engine.records_ == nullptr) continue;
    for (const int64_t end_ns : step_ends_ns_) {
      engine.record()->inter_token_ns.push_back(end_ns - before_ns);
      before_ns = end_ns;
    }
  }
}

}  // namespace tuppence
