#include "tests/scheduler/simulation/cache_watch.h"

#include <algorithm>

#include "tests/scheduler/simulation/violation.h"

namespace tuppence::simulation {
namespace {

constexpr int32_t kFloorParts = 16;

}  // namespace

CacheWatch::CacheWatch(const EngineOptions& options)
    : floor_(options.blocks / kFloorParts), blocks_(options.blocks) {}

// Once those who must have ended, planning adds nothing to what is idle.
void CacheWatch::StepPlanned(const Engine& engine, bool somebody_lost) {
  const std::set<int64_t> ran = running_;
  Look(engine);
  if (somebody_lost || given_up_.empty()) return;
  const Counts idle = CountIdle();
  CheckOrder(idle);
  CheckFloor(idle, CountAdopted(engine, ran));
}

void CacheWatch::Look(const Engine& engine) {
  const BlockPool& pool = engine.pool();
  ++looks_;
  given_up_.clear();
  running_.clear();
  for (int32_t i = 0; i < pool.blocks_total(); ++i) {
    if (blocks_[i].idle && !pool.kept(i)) given_up_.push_back(blocks_[i]);
  }
  for (const SequenceGroup* group : engine.scheduler().running_groups()) {
    running_.insert(group->arrival);
    for (const Sequence& sequence : group->sequences) {
      for (const int32_t block : sequence.blocks.blocks()) blocks_[block].tenant = group->tenant;
    }
  }
  for (int32_t i = 0; i < pool.blocks_total(); ++i) {
    const bool idle = pool.kept(i) && pool.references(i) == 0;
    if (idle && !blocks_[i].idle) blocks_[i].idle_since = looks_;
    blocks_[i].idle = idle;
  }
}

void CacheWatch::CheckOrder(const Counts& idle) const {
  for (const Block& gone : given_up_) {
    for (const Block& block : blocks_) {
      if (!block.idle || block.idle_since >= gone.idle_since) continue;
      Require(block.tenant != gone.tenant && idle.at(block.tenant) <= floor_,
              "a block was given up before one that was let go earlier");
    }
  }
}

void CacheWatch::CheckFloor(Counts idle, const Counts& adopted) const {
  const auto has_more = [&](const auto& tenant) { return tenant.second > floor_; };
  if (std::none_of(idle.begin(), idle.end(), has_more)) return;
  for (const auto& [tenant, blocks] : adopted) idle[tenant] += blocks;
  for (const Block& gone : given_up_) {
    Require(idle[gone.tenant] >= floor_,
            "a tenant's last cached blocks were given up although another left more behind");
  }
}

CacheWatch::Counts CacheWatch::CountIdle() const {
  Counts idle;
  for (const Block& block : blocks_) {
    if (block.idle) ++idle[block.tenant];
  }
  return idle;
}

// By those who started in the step at hand.
CacheWatch::Counts CacheWatch::CountAdopted(const Engine& engine,
                                            const std::set<int64_t>& ran) const {
  Counts adopted;
  for (const SequenceGroup* group : engine.scheduler().running_groups()) {
    if (ran.count(group->arrival) > 0) continue;
    for (const Sequence& sequence : group->sequences) {
      for (const int32_t block : sequence.blocks.blocks()) {
        adopted[group->tenant] += engine.pool().kept(block);
      }
    }
  }
  return adopted;
}

}  // namespace tuppence::simulation
