#include "tests/scheduler/simulation/invariants.h"

#include <vector>

#include "tests/scheduler/simulation/violation.h"

namespace tuppence::simulation {

void CheckBlocks(const Engine& engine) {
  const BlockPool& pool = engine.pool();
  struct Holder {
    int32_t count = 0;
    int64_t tenant = -1;
    RopeRegime regime = RopeRegime::kShort;
  };
  std::vector<Holder> holders(pool.blocks_total());
  for (const SequenceGroup* group : engine.scheduler().running_groups()) {
    Require(group->running, "a group that does not run holds a place");
    for (const Sequence& sequence : group->sequences) {
      Require(!sequence.finished || sequence.blocks.empty(), "a finished choice holds blocks");
      for (const int32_t block : sequence.blocks.blocks()) {
        Holder& holder = holders[block];
        if (holder.count++ == 0) {
          holder.tenant = group->tenant;
          holder.regime = sequence.regime;
        }
        Require(holder.tenant == group->tenant, "two tenants share a block");
        Require(holder.regime == sequence.regime, "two rope regimes share a block");
      }
    }
  }
  int32_t used = 0;
  int32_t cached = 0;
  for (int32_t block = 0; block < pool.blocks_total(); ++block) {
    Require(pool.references(block) == holders[block].count,
            "a block's references are not its holders");
    used += holders[block].count > 0;
    cached += holders[block].count == 0 && pool.kept(block);
  }
  Require(pool.blocks_used() == used && pool.blocks_free() + used == pool.blocks_total(),
          "free and used blocks are not all blocks");
  Require(pool.blocks_cached() == cached, "cached blocks are counted wrong");
}

void CheckCaps(const Engine& engine, const AdmissionControl& admission, const Scenario& scenario) {
  int32_t sequences = 0;
  for (const SequenceGroup* group : engine.scheduler().running_groups()) {
    sequences += group->live_sequences();
    Require(group->preemptions <= scenario.options.preemptions_max, "preempted too often");
  }
  Require(sequences == engine.scheduler().sequences_running(), "places are counted wrong");
  Require(sequences <= scenario.options.sequences_max, "more sequences run than may");
  const AdmissionSnapshot held = admission.snapshot();
  Require(held.requests <= scenario.limits.requests_max, "more requests are held than may be");
  Require(held.prompt_tokens <= scenario.limits.prompt_tokens_max,
          "more prompt tokens than may be");
}

void CheckBooks(const Engine& engine, int64_t now_ns) {
  const CostLedger& ledger = engine.ledger();
  Require(ledger.totals().sum_ns() == ledger.last_cut_ns() - ledger.start_ns(),
          "the accounts do not add up to the time since the start");
  Require(ledger.last_cut_ns() == now_ns, "time has passed that is in no account");
  const EngineSnapshot snapshot = engine.Snapshot();
  Require(snapshot.conservation_error_ns == 0, "the snapshot's accounts do not add up");
}

}  // namespace tuppence::simulation
