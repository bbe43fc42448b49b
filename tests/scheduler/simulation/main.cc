// scheduler_simulation: runs seeds, each twice where asked, and says what they covered. The first
// seed that breaks an invariant ends it, with the line that replays it.
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "tests/scheduler/simulation/violation.h"
#include "tests/scheduler/simulation/world.h"

namespace tuppence::simulation {
namespace {

struct Flags {
  uint64_t seeds = 1000;
  uint64_t from = 1;
  bool verbose = false;
};

bool Parse(int argc, char** argv, Flags* flags) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (flag == "--verbose") {
      flags->verbose = true;
    } else if ((flag == "--seeds" || flag == "--from") && i + 1 < argc) {
      (flag == "--seeds" ? flags->seeds : flags->from) = std::strtoull(argv[++i], nullptr, 10);
    } else {
      return false;
    }
  }
  return flags->seeds > 0;
}

void Print(uint64_t seeds, const Outcome& all) {
  const auto ends = [&](FinishReason reason) {
    return static_cast<long long>(all.ends[static_cast<int>(reason)]);
  };
  std::printf(
      "%llu seeds: %lld calls, %lld of them refused, %lld told that they come too late and %lld "
      "broken off by a crash; %lld steps, %lld of them planned ahead, %lld preemptions, %lld calls "
      "pinned, %lld tokens recomputed, %lld from the prefix cache; choices ended: %lld stop, "
      "%lld length, %lld cancelled, %lld deadline, %lld error, %lld drained; trace %016llx\n",
      static_cast<unsigned long long>(seeds), static_cast<long long>(all.calls),
      static_cast<long long>(all.refused), static_cast<long long>(all.late),
      static_cast<long long>(all.broken), static_cast<long long>(all.steps),
      static_cast<long long>(all.ahead), static_cast<long long>(all.preemptions),
      static_cast<long long>(all.pinned), static_cast<long long>(all.recomputed_tokens),
      static_cast<long long>(all.cached_tokens), ends(FinishReason::kStop),
      ends(FinishReason::kLength), ends(FinishReason::kCancelled), ends(FinishReason::kDeadline),
      ends(FinishReason::kError), ends(FinishReason::kDrained),
      static_cast<unsigned long long>(all.trace));
}

// So many seeds lead everywhere; where they do not, what was drawn has become too tame.
bool CoversEverything(const Outcome& all) {
  bool covers = all.refused > 0 && all.late > 0 && all.ahead > 0 && all.broken > 0 &&
                all.pinned > 0 && all.recomputed_tokens > 0 && all.cached_tokens > 0;
  for (int reason = static_cast<int>(FinishReason::kStop); reason < kFinishReasons; ++reason) {
    covers = covers && all.ends[reason] > 0;
  }
  return covers;
}

int Main(int argc, char** argv) {
  Flags flags;
  if (!Parse(argc, argv, &flags)) {
    std::fprintf(stderr,
                 "scheduler_simulation [--seeds N] [--from S] [--verbose]\n"
                 "  N seeds from S on, each twice, which must come to the same\n");
    return 2;
  }
  constexpr int kSecondsPerSeedMax = 60;
  WatchForAborts(kSecondsPerSeedMax);
  Outcome all;
  for (uint64_t seed = flags.from; seed < flags.from + flags.seeds; ++seed) {
    NoteSeed(seed);
    const Scenario scenario = DrawScenario(seed);
    const Outcome first = World(scenario).Run();
    const Outcome second = World(scenario).Run();
    Require(first.trace == second.trace, "the same seed came to two different traces");
    all.Add(first);
    if (!flags.verbose) continue;
    std::printf("seed %llu: %lld calls, %lld steps, %lld preemptions, trace %016llx\n",
                static_cast<unsigned long long>(seed), static_cast<long long>(first.calls),
                static_cast<long long>(first.steps), static_cast<long long>(first.preemptions),
                static_cast<unsigned long long>(first.trace));
  }
  Print(flags.seeds, all);
  constexpr uint64_t kSeedsEnough = 1000;
  if (flags.seeds < kSeedsEnough || CoversEverything(all)) return 0;
  std::fprintf(stderr,
               "something that seeds are to lead to never came about: a figure above is 0\n");
  return 1;
}

}  // namespace
}  // namespace tuppence::simulation

int main(int argc, char** argv) { return tuppence::simulation::Main(argc, argv); }
