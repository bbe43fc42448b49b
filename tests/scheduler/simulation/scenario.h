// Scenario: everything that a seed decides before a simulation begins: the engine's sizes and
// limits, who calls when and for what, how readers behave, and which faults come when. Faults end
// at faults_end_ns; after that everything has to finish.
#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <vector>

#include "scheduler/admission.h"
#include "scheduler/engine.h"

namespace tuppence::simulation {

constexpr int32_t kVocab = 512;
constexpr int64_t kMs = 1'000'000;
constexpr int64_t kSecond = 1000 * kMs;

class Draw {
 public:
  explicit Draw(uint64_t seed) : random_(seed) {}
  int64_t Between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random_() % static_cast<uint64_t>(high - low + 1));
  }
  bool Chance(int64_t percent) { return Between(1, 100) <= percent; }
  uint64_t Number() { return random_(); }

 private:
  std::mt19937_64 random_;
};

enum class ReaderKind : uint8_t {
  kPrompt,    // takes whenever it is told
  kSlow,      // takes a while after it is told
  kStalled,   // takes nothing for a long time, once
  kVanished,  // takes nothing any more from some moment on, and never says so
};

// One call that a client makes.
struct CallPlan {
  int64_t at_ns = 0;
  int32_t tenant = 0;
  PriorityClass priority_class = PriorityClass::kStandard;
  uint64_t key = 0;  // unique: the request's sampling seed, by which the device knows it
  std::vector<int32_t> prompt;
  SamplingParams sampling;
  std::vector<int32_t> stop_ids;
  int64_t deadline_after_ns = kNever;
  std::optional<int64_t> max_cost_nanousd;
  int32_t stream_tokens_max = 256;
  ReaderKind reader = ReaderKind::kPrompt;
  int64_t reader_wait_ns = 0;
  int32_t reader_changes_after = 0;  // tokens; a stalled or vanishing reader takes these first
  int64_t cancel_after_ns = kNever;
  int32_t cancel_after_tokens = -1;
  bool poisoned = false;  // its logits are NaN at some output token
  int32_t poisoned_at = 0;
};

// How the life of one process ends.
enum class LifeEnd : uint8_t { kDrain, kCrash };

struct LifeFault {
  LifeEnd end = LifeEnd::kDrain;
  int64_t at_ns = 0;
  int64_t grace_ns = 0;           // of the drain
  int64_t impatient_ns = kNever;  // after so long a second signal: now
  int64_t down_ns = 0;            // until the next process is up
};

struct DiskFault {
  int64_t from_ns = 0;
  int64_t until_ns = 0;
};

struct Scenario {
  uint64_t seed = 0;
  EngineOptions options;
  AdmissionLimits limits;
  std::vector<int64_t> weights_milli;  // by tenant
  int32_t records = 8;                 // of the ring
  std::vector<CallPlan> calls;         // by time
  std::vector<LifeFault> lives;        // by time
  std::vector<DiskFault> disk;
  int64_t books_lag_ns = 0;       // a commit takes so long
  int64_t books_patience_ns = 0;  // then service goes on unrecorded
  std::vector<int64_t> jumps_ns;  // when the wall's clock jumps
  std::vector<int64_t> cards_ns;  // when the rate card changes
  int32_t hang_per_mille = 0;     // steps that take hang_ns
  int64_t hang_ns = 0;
  int64_t device_fails_at_step = -1;  // counted over all lives
  int64_t faults_end_ns = 0;
};

Scenario DrawScenario(uint64_t seed);

}  // namespace tuppence::simulation
