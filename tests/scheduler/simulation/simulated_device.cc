#include "tests/scheduler/simulation/simulated_device.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tests/scheduler/simulation/violation.h"

namespace tuppence::simulation {
namespace {

constexpr int32_t kNobody = -1;

}  // namespace

std::string TenantName(int32_t tenant) { return absl::StrCat("t", tenant); }

int32_t TenantNumber(const std::string& tenant) {
  int32_t number = kNobody;
  Require(absl::SimpleAtoi(tenant.substr(1), &number), "a tenant nobody made");
  return number;
}

SimulatedDevice::SimulatedDevice(const Scenario& scenario, int64_t steps_before,
                                 VirtualClock* clock)
    : scenario_(scenario),
      block_tokens_(scenario.options.block_tokens),
      clock_(clock),
      model_(scenario.options.cost, 0),
      fair_watch_(scenario.options),
      step_watch_(scenario.options),
      cache_watch_(scenario.options),
      draw_(scenario.seed ^ static_cast<uint64_t>(steps_before)),
      slots_(size_t{1} * scenario.options.blocks * scenario.options.block_tokens),
      owners_(scenario.options.blocks),
      is_poison_(scenario.options.blocks, false),
      steps_(steps_before) {
  for (const CallPlan& call : scenario.calls) {
    if (call.poisoned) poisoned_[call.key] = &call;
  }
}

void SimulatedDevice::Launch(const BlockWork& blocks, const Batch& batch,
                             std::span<const SamplingRow> sampling) {
  fair_watch_.StepPlanned(engine_->scheduler(), engine_->pool(), clock_->NowNs());
  cache_watch_.StepPlanned(*engine_, fair_watch_.somebody_lost());
  NoteOwners();
  CheckBatch(batch, sampling);
  step_watch_.StepPlanned(*engine_, ChunksOf(batch), fair_watch_, clock_->NowNs());
  CheckNobodyForgotten(sampling);
  DoBlockWork(blocks);
  for (int32_t entry = 0; entry < batch.entries(); ++entry) {
    for (int32_t t = batch.entry_starts[entry]; t < batch.entry_starts[entry + 1]; ++t) {
      Store(batch, entry, t);
    }
  }
  results_.clear();
  for (const SamplingRow& row : sampling) {
    const int32_t token = batch.logit_tokens[row.logit_row];
    const auto next = std::upper_bound(batch.entry_starts.begin(), batch.entry_starts.end(), token);
    const int32_t entry = static_cast<int32_t>(next - batch.entry_starts.begin()) - 1;
    const int32_t positions = batch.positions[token] + 1;
    SampledToken& result = results_.emplace_back();
    result.token_id = row.scored_token >= 0 ? row.scored_token
                                            : NextToken(HashUpTo(batch, entry, positions), row);
    result.not_finite = NotFinite(row);
    if (result.not_finite) TaintBlocks(batch, entry, positions);
    if (row.scored_token < 0 && !result.not_finite) {
      drawn_[{row.key.seed, static_cast<int32_t>(row.key.choice)}].push_back(result.token_id);
    }
    trace_ = trace_ * 1'000'003 + static_cast<uint64_t>(result.token_id) + row.key.seed;
  }
  step_ns_ = std::llround(model_.StepNs(WorkOf(batch)));
}

absl::Status SimulatedDevice::Wait(std::span<SampledToken> tokens) {
  const bool faults = clock_->NowNs() < scenario_.faults_end_ns;
  clock_->Advance(step_ns_);
  if (faults && draw_.Between(1, 1000) <= scenario_.hang_per_mille) {
    clock_->Advance(scenario_.hang_ns);
  }
  failed_ = failed_ || steps_ == scenario_.device_fails_at_step;
  ++steps_;
  if (failed_) return absl::InternalError("an illegal memory access, as drawn");
  Require(tokens.size() == results_.size(), "the engine waits for other rows than it launched");
  std::copy(results_.begin(), results_.end(), tokens.begin());
  return absl::OkStatus();
}

void SimulatedDevice::StepEnded() {
  fair_watch_.StepEnded(engine_->scheduler(), clock_->NowNs());
  step_watch_.StepEnded(*engine_);
  cache_watch_.StepEnded(*engine_);
}

void SimulatedDevice::NoteOwners() {
  std::fill(owners_.begin(), owners_.end(), Owner());
  for (const SequenceGroup* group : engine_->scheduler().running_groups()) {
    const ActiveRequest* request = static_cast<const ActiveRequest*>(group);
    const int32_t tenant = TenantNumber(request->request.tenant);
    for (const Sequence& sequence : group->sequences) {
      for (const int32_t block : sequence.blocks.blocks()) {
        owners_[block] = {.tenant = tenant, .request = request, .sequence = &sequence};
      }
    }
  }
}

// Whose positions these are says the block that each is written to.
std::vector<Chunk> SimulatedDevice::ChunksOf(const Batch& batch) const {
  std::vector<Chunk> chunks;
  for (int32_t entry = 0; entry < batch.entries(); ++entry) {
    const int32_t token = batch.entry_starts[entry];
    const int32_t first = batch.positions[token];
    const int32_t end = first + batch.entry_starts[entry + 1] - token;
    const Owner& owner = owners_[batch.slots[token] / block_tokens_];
    Require(owner.sequence != nullptr, "a token is written to a block that nobody holds");
    Chunk* last = chunks.empty() ? nullptr : &chunks.back();
    if (last != nullptr && last->sequence == owner.sequence && last->end == first) {
      last->end = end;
    } else {
      chunks.push_back({owner.request, owner.sequence, first, end, batch.entry_phases[entry]});
    }
  }
  return chunks;
}

void SimulatedDevice::CheckBatch(const Batch& batch, std::span<const SamplingRow> sampling) const {
  const EngineOptions& options = scenario_.options;
  Require(batch.tokens() > 0, "an empty batch was launched");
  Require(batch.tokens() <= BatchTokensMax(options), "a batch holds more tokens than a step may");
  Require(batch.logit_rows() <= options.logit_rows_max, "a batch asks for too many logit rows");
  std::set<int32_t> written;
  for (int32_t entry = 0; entry < batch.entries(); ++entry) {
    const int32_t first = batch.entry_starts[entry];
    const int32_t end = batch.entry_starts[entry + 1];
    Require(first < end, "an entry without tokens");
    Require(batch.entry_phases[entry] == Phase::kPrefill || end == first + 1,
            "a decode entry of several tokens");
    for (int32_t token = first; token < end; ++token) {
      const int32_t position = batch.positions[token];
      const int32_t block = position / block_tokens_;
      Require(position == batch.positions[first] + token - first, "positions that do not follow");
      Require(block < batch.block_table_stride, "a position beyond its block table");
      Require(batch.slots[token] ==
                  batch.block_tables[entry * batch.block_table_stride + block] * block_tokens_ +
                      position % block_tokens_,
              "a token is written elsewhere than its block table says");
      Require(written.insert(batch.slots[token]).second, "two tokens are written to one slot");
    }
  }
  for (const SamplingRow& row : sampling) {
    Require(row.logit_row >= 0 && row.logit_row < batch.logit_rows(), "a row without logits");
  }
}

// Whoever can decode does so in every step: no prompt, however long, holds them up.
void SimulatedDevice::CheckNobodyForgotten(std::span<const SamplingRow> sampling) const {
  std::set<std::pair<uint64_t, uint32_t>> rows;
  for (const SamplingRow& row : sampling) {
    if (row.scored_token < 0) rows.insert({row.key.seed, row.key.choice});
  }
  for (const SequenceGroup* group : engine_->scheduler().running_groups()) {
    const uint64_t key = *static_cast<const ActiveRequest*>(group)->request.sampling.seed;
    for (const Sequence& sequence : group->sequences) {
      if (sequence.finished || sequence.follows || sequence.stalled || !sequence.decodes()) {
        continue;
      }
      Require(rows.count({key, static_cast<uint32_t>(sequence.choice)}) == 1,
              "a running sequence that could decode was left out of a step");
    }
  }
}

void SimulatedDevice::DoBlockWork(const BlockWork& blocks) {
  for (const int32_t block : blocks.zero) {
    std::fill_n(slots_.begin() + block * block_tokens_, block_tokens_, Slot());
  }
  Require(blocks.copy_from.size() == blocks.copy_to.size(), "copies without a target");
  for (size_t i = 0; i < blocks.copy_from.size(); ++i) {
    Require(blocks.copy_from[i] != blocks.copy_to[i], "a block is copied to itself");
    std::copy_n(slots_.begin() + blocks.copy_from[i] * block_tokens_, block_tokens_,
                slots_.begin() + blocks.copy_to[i] * block_tokens_);
    is_poison_[blocks.copy_to[i]] = false;
  }
}

void SimulatedDevice::Store(const Batch& batch, int32_t entry, int32_t token) {
  const int32_t slot = batch.slots[token];
  const int32_t block = slot / block_tokens_;
  Require(engine_->pool().references(block) == 1, "a token is written where another reads");
  const int32_t tenant = owners_[block].tenant;
  for (int32_t i = 0; i < block_tokens_; ++i) {
    const Slot& other = slots_[block * block_tokens_ + i];
    Require(other.tenant == kNobody || other.tenant == tenant,
            "a block changed tenant without being zeroed");
    Require(!other.not_finite, "a block that held NaN came to somebody else without being zeroed");
  }
  is_poison_[block] = false;
  const int32_t position = batch.positions[token];
  slots_[slot] = {.token_id = batch.token_ids[token],
                  .position = position,
                  .tenant = tenant,
                  .regime = batch.regimes[token],
                  .role = batch.entry_phases[entry],
                  .not_finite = false,
                  .before = HashUpTo(batch, entry, position)};
}

uint64_t SimulatedDevice::HashUpTo(const Batch& batch, int32_t entry, int32_t positions) const {
  uint64_t hash = 0;
  for (int32_t position = 0; position < positions; ++position) {
    hash = Attend(hash, SlotAt(batch, entry, position));
  }
  return hash;
}

const Slot& SimulatedDevice::SlotAt(const Batch& batch, int32_t entry, int32_t position) const {
  const int32_t block =
      batch.block_tables[entry * batch.block_table_stride + position / block_tokens_];
  return slots_[block * block_tokens_ + position % block_tokens_];
}

void SimulatedDevice::TaintBlocks(const Batch& batch, int32_t entry, int32_t positions) {
  for (int32_t position = 0; position < positions; ++position) {
    const int32_t block =
        batch.block_tables[entry * batch.block_table_stride + position / block_tokens_];
    slots_[block * block_tokens_ + position % block_tokens_].not_finite = true;
  }
}

bool SimulatedDevice::NotFinite(const SamplingRow& row) const {
  const auto found = poisoned_.find(row.key.seed);
  return row.scored_token < 0 && found != poisoned_.end() &&
         row.output_index == found->second->poisoned_at;
}

void SimulatedDevice::PoisonFreeBlocks() {
  const BlockPool& pool = engine_->pool();
  for (int32_t block = 0; block < pool.blocks_total(); ++block) {
    if (pool.references(block) > 0 || pool.kept(block) || is_poison_[block]) continue;
    is_poison_[block] = true;
    for (int32_t i = 0; i < block_tokens_; ++i) {
      Slot& slot = slots_[block * block_tokens_ + i];
      slot.token_id = kPoisonToken;
      slot.before ^= 0xdeadbeef;
    }
  }
}

}  // namespace tuppence::simulation
