// CacheWatch: which blocks the pool gives up, of those that hold what may be wanted again and that
// nobody holds, against what scheduler/block_pool.h promises.
//
//   the floor  while somebody leaves more than a sixteenth of the pool behind, nobody else's last
//              sixteenth goes
//   the order  what was let go longest ago goes first, the floors set aside
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <vector>

#include "scheduler/engine.h"

namespace tuppence::simulation {

class CacheWatch {
 public:
  explicit CacheWatch(const EngineOptions& options);

  // A step was planned and goes to the device. somebody_lost: their place, in it; then blocks came
  // back while others were taken, and the order is anybody's guess.
  void StepPlanned(const Engine& engine, bool somebody_lost);
  // The engine is through with a step, or found nothing to do.
  void StepEnded(const Engine& engine) { Look(engine); }

 private:
  struct Block {
    int64_t tenant = -1;     // who held it last
    bool idle = false;       // kept, and held by nobody
    int64_t idle_since = 0;  // number of the look that found it so first
  };
  // How many blocks, by tenant.
  using Counts = std::map<int64_t, int32_t>;

  void Look(const Engine& engine);
  void CheckOrder(const Counts& idle) const;
  void CheckFloor(Counts idle, const Counts& adopted) const;
  Counts CountIdle() const;
  Counts CountAdopted(const Engine& engine, const std::set<int64_t>& ran) const;

  const int32_t floor_;
  std::vector<Block> blocks_;
  // At the last look.
  int64_t looks_ = 0;
  std::vector<Block> given_up_;  // since the look before, as they were
  std::set<int64_t> running_;    // by arrival
};

}  // namespace tuppence::simulation
