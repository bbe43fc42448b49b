#include "tests/scheduler/simulation/world.h"

#include <algorithm>
#include <map>
#include <span>

#include "absl/strings/str_cat.h"
#include "scheduler/refusal.h"
#include "tests/scheduler/simulation/deadline_watch.h"
#include "tests/scheduler/simulation/invariants.h"
#include "tests/scheduler/simulation/violation.h"

namespace tuppence::simulation {
namespace {

constexpr int64_t kStepsMax = 100'000;
// Once the faults are over, everything is done within this time.
constexpr int64_t kSettleNs = 120 * kSecond;

EngineOptions OptionsWithBooks(const Scenario& scenario, Books* books) {
  EngineOptions options = scenario.options;
  options.records = books->records();
  options.unrecorded = books->unrecorded();
  return options;
}

void Fold(uint64_t* trace, uint64_t value) { *trace = *trace * 1'000'003 + value; }

}  // namespace

void Outcome::Add(const Outcome& other) {
  Fold(&trace, other.trace);
  steps += other.steps;
  calls += other.calls;
  refused += other.refused;
  late += other.late;
  broken += other.broken;
  ahead += other.ahead;
  preemptions += other.preemptions;
  recomputed_tokens += other.recomputed_tokens;
  pinned += other.pinned;
  cached_tokens += other.cached_tokens;
  for (int reason = 0; reason < kFinishReasons; ++reason) ends[reason] += other.ends[reason];
}

World::Life::Life(const Scenario& scenario, int64_t steps_before, Disk* disk, VirtualClock* clock)
    : admission(scenario.limits),
      device(scenario, steps_before, clock),
      books(scenario, clock->NowNs(), disk),
      engine(std::make_unique<Engine>(OptionsWithBooks(scenario, &books), &device,
                                      /*tokenizer=*/nullptr, clock)) {
  device.set_engine(engine.get());
  books.set_engine(engine.get());
}

Outcome World::Run() {
  clock_.AdvanceTo(kMs);
  BeginLife();
  while (!done()) {
    Require(outcome_.steps < kStepsMax && clock_.NowNs() < scenario_.faults_end_ns + kSettleNs,
            "the faults are over and it does not come to rest");
    LetHappen();
    if (life_ != nullptr) Step();
    if (life_ == nullptr || idle_) Wait();
  }
  if (!life_->draining) Drain(clock_.NowNs() + kSecond);
  while (!life_->engine->drained()) {
    Step();
    if (idle_) Wait();
  }
  Bury();
  return outcome_;
}

bool World::done() const {
  if (next_call_ < scenario_.calls.size() || life_ == nullptr || faults()) return false;
  return life_->first_open == life_->calls.size();
}

void World::BeginLife() {
  life_ = std::make_unique<Life>(scenario_, steps_before_, &disk_, &clock_);
  idle_ = false;
}

// Whatever is due by now, from outside.
void World::LetHappen() {
  const int64_t now_ns = clock_.NowNs();
  while (next_jump_ < scenario_.jumps_ns.size() && scenario_.jumps_ns[next_jump_] <= now_ns) {
    const int64_t hours = static_cast<int64_t>(next_jump_ % 2 == 0 ? 3 : -5);
    clock_.JumpUtc(hours * 3600 * kSecond + 7);
    ++next_jump_;
  }
  if (life_ == nullptr && now_ns >= up_again_ns_) BeginLife();
  if (life_ == nullptr) return;
  while (next_card_ < scenario_.cards_ns.size() && scenario_.cards_ns[next_card_] <= now_ns) {
    ++next_card_;
    life_->engine->SetRateCard({.id = absl::StrCat("card-", next_card_),
                                .micro_usd_per_hour = static_cast<int64_t>(100'000 * next_card_)});
  }
  SubmitDue();
  EndLifeIfDue();
}

void World::SubmitDue() {
  const int64_t now_ns = clock_.NowNs();
  for (; next_call_ < scenario_.calls.size(); ++next_call_) {
    const CallPlan& plan = scenario_.calls[next_call_];
    if (plan.at_ns > now_ns) return;
    auto call = std::make_unique<Call>(scenario_, plan, static_cast<int32_t>(next_call_));
    ++outcome_.calls;
    if (call->Submit(life_->engine.get(), &life_->admission, life_->draining, now_ns)) {
      life_->calls.push_back(std::move(call));
    } else {
      ++outcome_.refused;
    }
  }
}

void World::EndLifeIfDue() {
  const int64_t now_ns = clock_.NowNs();
  if (life_->draining) {
    if (next_life_fault_ > 0) {
      const LifeFault& fault = scenario_.lives[next_life_fault_ - 1];
      if (fault.impatient_ns != kNever && now_ns >= fault.at_ns + fault.impatient_ns) {
        Drain(std::min(now_ns, life_->grace_until_ns));  // the second signal
      }
    }
    if (life_->engine->drained()) Bury();
    return;
  }
  if (life_->device.failed()) {
    device_failed_ = true;
    Drain(now_ns);
    return;
  }
  if (next_life_fault_ == scenario_.lives.size()) return;
  const LifeFault& fault = scenario_.lives[next_life_fault_];
  if (now_ns < fault.at_ns) return;
  ++next_life_fault_;
  up_again_ns_ = now_ns + fault.down_ns;
  if (fault.end == LifeEnd::kCrash) {
    Crash();
  } else {
    Drain(now_ns + fault.grace_ns);
  }
}

void World::Drain(int64_t deadline_ns) {
  life_->draining = true;
  life_->grace_until_ns = deadline_ns;
  life_->engine->BeginDrain(deadline_ns);
}

// Nobody hears of anything any more, and what was not on the disk is gone.
void World::Crash() {
  for (const std::unique_ptr<Call>& call : life_->calls) {
    call->Detach();
    outcome_.broken += !call->released();
  }
  steps_before_ = life_->device.steps();
  outcome_.steps += life_->engine->Snapshot().steps;
  life_->books.Forget();
  life_->engine->Stop();
  life_.reset();
}

// A process that drained: everything it took on has ended, and its books are whole.
void World::Bury() {
  Engine& engine = *life_->engine;
  for (int i = 0; i < 1000 && !life_->books.at_rest(); ++i) {
    clock_.Advance(kMs);
    ReadAndRecord();
  }
  while (!life_->books.at_rest()) {  // a disk that stays dead longer than anyone waits
    clock_.Advance(100 * kMs);
    ReadAndRecord();
  }
  engine.Stop();
  while (!life_->books.at_rest()) {
    clock_.Advance(kMs);
    life_->books.Run(clock_.NowNs());
  }
  engine.notifier()->NotifyAll();
  const EngineSnapshot snapshot = engine.Snapshot();
  Require(snapshot.requests_accepted == static_cast<int64_t>(life_->calls.size()),
          "a request that was taken on never reached the engine");
  Require(snapshot.requests_ended == snapshot.requests_accepted, "somebody never ended");
  Require(engine.pool().blocks_used() == 0, "blocks are held though nobody is there");
  Require(engine.scheduler().running() == 0 && engine.scheduler().waiting() == 0,
          "the scheduler still has somebody");
  const AdmissionSnapshot held = life_->admission.snapshot();
  Require(held.requests == 0 && held.prompt_tokens == 0 && held.tenants == 0,
          "reservations are held though nobody is there");
  life_->books.CheckClosed(engine.ledger(), snapshot.requests_accepted);
  for (const std::unique_ptr<Call>& call : life_->calls) {
    call->TakeRest(clock_.NowNs());
    call->CheckEnd(&life_->device, life_->grace_until_ns);
    Fold(&outcome_.trace, call->trace());
    Count(call->end());
  }
  Fold(&outcome_.trace, life_->device.trace());
  Fold(&outcome_.trace, static_cast<uint64_t>(engine.ledger().totals().request_ns));
  outcome_.steps += snapshot.steps;
  outcome_.preemptions += snapshot.preemptions;
  outcome_.recomputed_tokens += snapshot.recomputed_tokens;
  steps_before_ = life_->device.steps();
  life_.reset();
}

void World::Count(const RequestEnd& end) {
  outcome_.pinned += end.usage.preemptions == scenario_.options.preemptions_max;
  outcome_.cached_tokens += end.usage.cached_tokens;
  outcome_.late += RefusalOf(end.status).value_or(Refusal()).reason == reason::kDeadlineUnreachable;
  for (const FinishReason reason : end.finish_reasons) ++outcome_.ends[static_cast<int>(reason)];
}

void World::Step() {
  const int64_t begin_ns = clock_.NowNs();
  const int64_t accepted = life_->engine->Snapshot().requests_accepted;
  DeadlineWatch deadline_watch(scenario_, *life_->engine, begin_ns);
  idle_ = !life_->engine->Step();
  const int64_t newcomers = life_->engine->Snapshot().requests_accepted - accepted;
  deadline_watch.Judge(std::span(life_->calls).subspan(accepted, newcomers));
  life_->device.StepEnded();
  outcome_.ahead += life_->engine->scheduler().planned_ahead();
  CheckBlocks(*life_->engine);
  CheckCaps(*life_->engine, life_->admission, scenario_);
  CheckBooks(*life_->engine, clock_.NowNs());
  CheckCalls(begin_ns);
  CheckTenantCaps();
  CheckReaders(begin_ns);
  if (idle_) CheckIdle();
  life_->device.PoisonFreeBlocks();
  Fold(&outcome_.trace, static_cast<uint64_t>(clock_.NowNs()));
  ReadAndRecord();
}

// Nobody outlives a cancel or a deadline by more than the step at hand.
void World::CheckCalls(int64_t step_begin_ns) {
  const int64_t accepted = life_->engine->Snapshot().requests_accepted;
  std::vector<std::unique_ptr<Call>>& calls = life_->calls;
  for (size_t i = life_->first_open; i < calls.size(); ++i) {
    const Call& call = *calls[i];
    if (call.released() || static_cast<int64_t>(i) >= accepted) continue;
    if (call.cancelled() && call.cancelled_ns() <= step_begin_ns) {
      Violation(absl::StrCat(call.Describe(), " runs on after its cancel"));
    }
    if (call.deadline_ns() <= step_begin_ns) {
      Violation(absl::StrCat(call.Describe(), " runs on after its deadline"));
    }
    if (life_->draining && step_begin_ns >= life_->grace_until_ns) {
      Violation(absl::StrCat(call.Describe(), " runs on after the drain's time"));
    }
  }
  while (life_->first_open < calls.size() && calls[life_->first_open]->released()) {
    ++life_->first_open;
  }
}

// Nobody whose reader takes nothing outlives the limit by more than the step at hand.
void World::CheckReaders(int64_t step_begin_ns) {
  const Scheduler& scheduler = life_->engine->scheduler();
  for (const SequenceGroup* group : scheduler.running_groups()) CheckReader(*group, step_begin_ns);
  for (const FairLane* lane : scheduler.queue().lanes_waiting()) {
    for (const auto& [arrival, group] : lane->waiting) CheckReader(*group, step_begin_ns);
  }
  for (size_t i = life_->first_open; i < life_->calls.size(); ++i) {
    life_->calls[i]->NoteRoom(clock_.NowNs());
  }
}

void World::CheckReader(const SequenceGroup& group, int64_t step_begin_ns) const {
  const Call& call = *life_->calls[group.arrival];
  for (const Sequence& sequence : group.sequences) {
    const int64_t since_ns = call.full_since_ns(sequence.choice);
    if (sequence.finished || since_ns == kNever) continue;
    if (step_begin_ns - since_ns >= scenario_.options.stall_limit_ns) {
      Violation(absl::StrCat(call.Describe(), " runs on although its reader takes nothing"));
    }
  }
}

void World::CheckTenantCaps() {
  struct Held {
    int64_t requests = 0;
    int64_t prompt_tokens = 0;
  };
  std::map<int32_t, Held> tenants;
  for (size_t i = life_->first_open; i < life_->calls.size(); ++i) {
    const Call& call = *life_->calls[i];
    if (call.released()) continue;
    Held& held = tenants[call.plan().tenant];
    ++held.requests;
    held.prompt_tokens += static_cast<int64_t>(call.plan().prompt.size());
    Require(held.requests <= scenario_.limits.tenant_requests_max,
            "a tenant holds more requests than it may");
    Require(held.prompt_tokens <= scenario_.limits.tenant_prompt_tokens_max,
            "a tenant holds more prompt tokens than it may");
  }
}

// An engine that finds nothing to do has nobody to serve, unless slow readers hold the blocks.
void World::CheckIdle() {
  const EngineSnapshot snapshot = life_->engine->Snapshot();
  if (snapshot.records_full) return;
  const Call* waits = nullptr;
  for (size_t i = life_->first_open; i < life_->calls.size(); ++i) {
    const Call& call = *life_->calls[i];
    if (call.released()) continue;
    if (!call.HasRoom()) return;
    waits = &call;
  }
  if (waits != nullptr) {
    Violation(absl::StrCat(waits->Describe(), " waits and the engine has nothing to do"));
  }
}

void World::ReadAndRecord() {
  const int64_t now_ns = clock_.NowNs();
  life_->books.Run(now_ns);
  life_->engine->notifier()->NotifyAll();
  for (size_t i = 0; i < life_->calls.size(); ++i) life_->calls[i]->Act(now_ns, faults());
}

// To the next moment at which something may happen.
void World::Wait() {
  const int64_t now_ns = clock_.NowNs();
  int64_t next_ns = now_ns + scenario_.options.idle_beat_ns;
  const auto note = [&](int64_t at_ns) {
    if (at_ns > now_ns) next_ns = std::min(next_ns, at_ns);
  };
  if (next_call_ < scenario_.calls.size()) note(scenario_.calls[next_call_].at_ns);
  if (next_life_fault_ < scenario_.lives.size()) note(scenario_.lives[next_life_fault_].at_ns);
  if (next_jump_ < scenario_.jumps_ns.size()) note(scenario_.jumps_ns[next_jump_]);
  if (next_card_ < scenario_.cards_ns.size()) note(scenario_.cards_ns[next_card_]);
  if (life_ == nullptr) {
    note(up_again_ns_);
  } else {
    note(life_->engine->next_alarm_ns());
    note(life_->books.next_ns(now_ns));
    for (const std::unique_ptr<Call>& call : life_->calls) note(call->next_ns(now_ns));
  }
  clock_.AdvanceTo(next_ns);
  if (life_ != nullptr) ReadAndRecord();
}

}  // namespace tuppence::simulation
