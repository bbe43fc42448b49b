#include "tests/scheduler/simulation/scenario.h"

#include <algorithm>

namespace tuppence::simulation {
namespace {

// Which kinds of trouble there are, each with its own chance, so that every one of them is seen
// with and without the others.
struct Swarm {
  int64_t span_ns = 0;  // calls arrive within it
  int32_t tenants = 1;
  int32_t choices_max = 1;
  int32_t tokens_max = 0;
  int32_t cancel_percent = 0;
  int32_t deadline_percent = 0;
  int32_t slow_percent = 0;
  int32_t stalled_percent = 0;
  int32_t vanished_percent = 0;
  int32_t nan_percent = 0;
  int32_t logprobs_percent = 0;
  int32_t impossible_percent = 0;
  bool classes = false;
  int32_t repeated_percent = 0;  // prompts that begin as another's
};

int32_t Percent(Draw& draw, int64_t seeds_percent, int64_t high) {
  return draw.Chance(seeds_percent) ? static_cast<int32_t>(draw.Between(3, high)) : 0;
}

EngineOptions DrawOptions(Draw& draw) {
  EngineOptions options;
  options.block_tokens = static_cast<int32_t>(draw.Between(1, 8));
  options.blocks =
      static_cast<int32_t>(draw.Chance(80) ? draw.Between(8, 64) : draw.Between(64, 400));
  options.sequences_max = static_cast<int32_t>(draw.Between(1, 12));
  options.logit_rows_max = options.sequences_max + static_cast<int32_t>(draw.Between(0, 6));
  options.prefill_tokens_min = static_cast<int32_t>(draw.Between(1, 8));
  options.step_tokens_max = options.prefill_tokens_min + static_cast<int32_t>(draw.Between(0, 32));
  options.context_tokens = 96;
  options.inbox_max = static_cast<int32_t>(draw.Chance(30) ? draw.Between(1, 4) : 64);
  options.stall_limit_ns = draw.Between(5, 400) * kMs;
  options.idle_beat_ns = 100 * kMs;
  options.preemptions_max = static_cast<int32_t>(draw.Between(1, 3));
  if (draw.Chance(40)) options.positions_original = static_cast<int32_t>(draw.Between(8, 40));
  if (draw.Chance(30)) options.rope_policy = RopePolicy::kAdmission;
  options.prefix_cache = draw.Chance(70);
  if (draw.Chance(40)) options.itl_target_ns = draw.Between(1, 20) * kMs;
  for (int64_t& wait_ns : options.class_wait_max_ns) wait_ns = draw.Between(0, 200) * kMs;
  options.request_wait_max_ns = draw.Between(0, 200) * kMs;
  options.rate_card = {.id = "card-0", .micro_usd_per_hour = 526'000};
  options.cost = {.launch_ns = 50e3,
                  .weights_ns = static_cast<double>(draw.Between(1, 2000)) * 1e3,
                  .token_ns = static_cast<double>(draw.Between(1, 300)) * 1e3,
                  .attention_ns = 40,
                  .kv_read_ns = 900};
  options.period_ns = draw.Between(1, 200) * kMs;
  options.books_limit_ns = 2 * kSecond;
  return options;
}

Swarm DrawSwarm(const EngineOptions& options, Draw& draw) {
  Swarm swarm;
  swarm.span_ns = draw.Between(1, 400) * kMs;
  swarm.tenants = static_cast<int32_t>(draw.Chance(80) ? draw.Between(1, 4) : draw.Between(5, 50));
  swarm.choices_max = static_cast<int32_t>(draw.Chance(60) ? 1 : draw.Between(2, 4));
  swarm.tokens_max = std::min(options.context_tokens, options.blocks * options.block_tokens);
  swarm.cancel_percent = Percent(draw, 45, 50);
  swarm.deadline_percent = Percent(draw, 35, 50);
  swarm.slow_percent = Percent(draw, 40, 60);
  swarm.stalled_percent = Percent(draw, 30, 30);
  swarm.vanished_percent = Percent(draw, 25, 30);
  swarm.nan_percent = Percent(draw, 25, 20);
  swarm.logprobs_percent = Percent(draw, 30, 40);
  swarm.classes = draw.Chance(50);
  swarm.impossible_percent = Percent(draw, 20, 10);
  swarm.repeated_percent = Percent(draw, 50, 90);
  return swarm;
}

// Tenants ask alike at times: the same beginning, token for token.
std::vector<int32_t> DrawPrompt(const Swarm& swarm, int64_t tokens, Draw& draw) {
  std::vector<int32_t> prompt;
  if (draw.Chance(swarm.repeated_percent)) {
    Draw shared(draw.Between(0, 1));
    const int64_t same = draw.Between(0, tokens);
    for (int64_t i = 0; i < same; ++i) {
      prompt.push_back(static_cast<int32_t>(shared.Between(0, kVocab - 1)));
    }
  }
  while (static_cast<int64_t>(prompt.size()) < tokens) {
    prompt.push_back(static_cast<int32_t>(draw.Between(0, kVocab - 1)));
  }
  return prompt;
}

void DrawReader(const Swarm& swarm, const EngineOptions& options, CallPlan* call, Draw& draw) {
  call->stream_tokens_max = static_cast<int32_t>(draw.Between(1, draw.Chance(50) ? 4 : 40));
  call->reader_changes_after = static_cast<int32_t>(draw.Between(0, 12));
  if (draw.Chance(swarm.vanished_percent)) {
    call->reader = ReaderKind::kVanished;
  } else if (draw.Chance(swarm.stalled_percent)) {
    call->reader = ReaderKind::kStalled;
    call->reader_wait_ns = options.stall_limit_ns * draw.Between(20, 180) / 100;
  } else if (draw.Chance(swarm.slow_percent)) {
    call->reader = ReaderKind::kSlow;
    call->reader_wait_ns = std::min(draw.Between(1, 40) * kMs, options.stall_limit_ns / 2);
  }
}

CallPlan DrawCall(const Swarm& swarm, const EngineOptions& options, int64_t number, Draw& draw) {
  CallPlan call;
  // Crowds as well as a steady trickle.
  call.at_ns = kMs + (draw.Chance(50) ? swarm.span_ns / 4 * draw.Between(0, 3)
                                      : draw.Between(0, swarm.span_ns));
  call.tenant = static_cast<int32_t>(draw.Between(0, swarm.tenants - 1));
  if (swarm.classes) {
    call.priority_class = static_cast<PriorityClass>(draw.Between(0, kPriorityClasses - 1));
  }
  call.key = (static_cast<uint64_t>(number + 1) << 32) | (draw.Number() & 0xffffffffu);
  const int32_t choices = static_cast<int32_t>(
      std::min<int64_t>(draw.Between(1, swarm.choices_max), options.sequences_max));
  const int64_t blocks_each = options.blocks / choices;
  const int64_t tokens_max =
      std::max<int64_t>(2, std::min<int64_t>(swarm.tokens_max, blocks_each * options.block_tokens));
  int64_t prompt_tokens = draw.Between(1, tokens_max - 1);
  int64_t max_tokens = draw.Between(1, tokens_max - prompt_tokens);
  if (draw.Chance(swarm.impossible_percent)) max_tokens += tokens_max;
  call.prompt = DrawPrompt(swarm, prompt_tokens, draw);
  call.sampling.seed = call.key;
  call.sampling.temperature = 0;
  call.sampling.choices = choices;
  call.sampling.max_tokens = static_cast<int32_t>(max_tokens);
  call.sampling.min_tokens = static_cast<int32_t>(draw.Between(0, max_tokens));
  call.sampling.prompt_logprobs = draw.Chance(swarm.logprobs_percent);
  for (int32_t i = 0; i < 12 && draw.Chance(60); ++i) {
    call.stop_ids.push_back(static_cast<int32_t>(draw.Between(0, kVocab - 2)));
  }
  if (draw.Chance(swarm.deadline_percent)) call.deadline_after_ns = draw.Between(0, 150) * kMs;
  if (draw.Chance(swarm.cancel_percent)) {
    if (draw.Chance(50)) {
      call.cancel_after_ns = draw.Between(0, 100) * kMs;
    } else {
      call.cancel_after_tokens = static_cast<int32_t>(draw.Between(0, 20));
    }
  }
  if (draw.Chance(swarm.nan_percent)) {
    call.poisoned = true;
    call.poisoned_at = static_cast<int32_t>(draw.Between(0, max_tokens - 1));
  }
  DrawReader(swarm, options, &call, draw);
  if (draw.Chance(10)) call.max_cost_nanousd = draw.Between(1, 20'000);
  return call;
}

void DrawFaults(const Swarm& swarm, Scenario* scenario, Draw& draw) {
  const auto moment = [&] { return kMs + draw.Between(0, swarm.span_ns); };
  if (draw.Chance(35)) {
    const int64_t lives = draw.Between(1, 3);
    for (int64_t i = 0; i < lives; ++i) {
      LifeFault life;
      life.end = draw.Chance(50) ? LifeEnd::kDrain : LifeEnd::kCrash;
      life.at_ns = moment();
      life.grace_ns = draw.Between(0, 200) * kMs;
      if (draw.Chance(30)) life.impatient_ns = draw.Between(0, 50) * kMs;
      life.down_ns = draw.Between(0, 50) * kMs;
      scenario->lives.push_back(life);
    }
  }
  if (draw.Chance(30)) {
    const int64_t from_ns = moment();
    scenario->disk.push_back({from_ns, from_ns + draw.Between(1, 500) * kMs});
  }
  scenario->books_lag_ns = draw.Chance(50) ? 0 : draw.Between(1, 30) * kMs;
  scenario->books_patience_ns = draw.Between(1, 200) * kMs;
  for (int64_t i = draw.Chance(30) ? draw.Between(1, 3) : 0; i > 0; --i) {
    scenario->jumps_ns.push_back(moment());
  }
  for (int64_t i = draw.Chance(30) ? draw.Between(1, 3) : 0; i > 0; --i) {
    scenario->cards_ns.push_back(moment());
  }
  if (draw.Chance(20)) {
    scenario->hang_per_mille = static_cast<int32_t>(draw.Between(1, 30));
    scenario->hang_ns = draw.Between(50, 2000) * kMs;
  }
  if (draw.Chance(10)) scenario->device_fails_at_step = draw.Between(0, 120);
}

}  // namespace

Scenario DrawScenario(uint64_t seed) {
  Draw draw(seed * 0x9E3779B97F4A7C15u + 1);
  Scenario scenario;
  scenario.seed = seed;
  scenario.options = DrawOptions(draw);
  const Swarm swarm = DrawSwarm(scenario.options, draw);
  for (int32_t tenant = 0; tenant < swarm.tenants; ++tenant) {
    scenario.weights_milli.push_back(swarm.classes ? draw.Between(100, 5000) : 1000);
  }
  const int64_t calls = draw.Chance(85) ? draw.Between(1, 30) : draw.Between(30, 90);
  for (int64_t i = 0; i < calls; ++i) {
    scenario.calls.push_back(DrawCall(swarm, scenario.options, i, draw));
  }
  const auto earlier = [](const auto& a, const auto& b) { return a.at_ns < b.at_ns; };
  std::stable_sort(scenario.calls.begin(), scenario.calls.end(), earlier);
  if (draw.Chance(40)) {
    scenario.limits = {.requests_max = draw.Between(1, 12),
                       .prompt_tokens_max = draw.Between(100, 400),
                       .tenant_requests_max = draw.Between(1, 8),
                       .tenant_prompt_tokens_max = draw.Between(96, 300)};
  }
  // A process that dies publishes a few records that nobody takes.
  scenario.records = static_cast<int32_t>(draw.Between(4, 12));
  DrawFaults(swarm, &scenario, draw);
  std::stable_sort(scenario.lives.begin(), scenario.lives.end(), earlier);
  std::sort(scenario.jumps_ns.begin(), scenario.jumps_ns.end());
  std::sort(scenario.cards_ns.begin(), scenario.cards_ns.end());
  scenario.faults_end_ns = kMs + swarm.span_ns + kSecond;
  return scenario;
}

}  // namespace tuppence::simulation
