// Call: the client's side of one request: submits it, reads its stream the way its reader does,
// cancels it, and holds what came against what should have come.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "scheduler/admission.h"
#include "scheduler/engine.h"
#include "tests/scheduler/simulation/scenario.h"
#include "tests/scheduler/simulation/simulated_device.h"

namespace tuppence::simulation {

class Call final : public StreamReader {
 public:
  Call(const Scenario& scenario, const CallPlan& plan, int32_t number);
  ~Call() override;

  // False when it was refused, for a reason that holds.
  bool Submit(Engine* engine, AdmissionControl* admission, bool draining, int64_t now_ns);

  void OnReady() override;
  // Reads and cancels as far as it is time.
  void Act(int64_t now_ns, bool faults);
  int64_t next_ns(int64_t now_ns) const;

  // The connection broke: it hears nothing any more.
  void Detach();
  // Takes whatever is left once the engine is done with it.
  void TakeRest(int64_t now_ns);
  // What came is right, and there is an end, for a reason that holds: a drain only from
  // drained_from_ns on. Requires: TakeRest.
  void CheckEnd(SimulatedDevice* device, int64_t drained_from_ns) const;

  const CallPlan& plan() const { return plan_; }
  const RequestEnd& end() const { return *end_; }  // requires: CheckEnd
  const std::string& id() const { return id_; }
  // The engine has let go of it.
  bool released() const { return hold_.expired(); }
  bool cancelled() const { return cancelled_ns_ != kNever; }
  int64_t cancelled_ns() const { return cancelled_ns_; }
  int64_t deadline_ns() const { return deadline_ns_; }
  // Each choice could take another token.
  bool HasRoom() const;
  // After each step: which choices can take no more.
  void NoteRoom(int64_t now_ns);
  // Since when one can, and its reader has taken nothing; kNever: it can.
  int64_t full_since_ns(int32_t choice) const { return full_since_ns_[choice]; }
  // Whether it must hear at once that it would come too late.
  void set_late(bool late) { late_ = late; }
  uint64_t trace() const { return trace_; }
  std::string Describe() const;

 private:
  void Take(int64_t now_ns);
  void Cancel(int64_t now_ns);

  const Scenario& scenario_;
  const CallPlan& plan_;
  const std::string id_;
  std::shared_ptr<TokenStream> stream_;
  std::weak_ptr<AdmissionHold> hold_;
  int64_t deadline_ns_ = kNever;
  int64_t submitted_ns_ = 0;
  int64_t ready_ns_ = kNever;  // since when there is something to take
  int64_t now_ns_ = 0;
  int64_t last_take_ns_ = 0;
  int64_t stalls_until_ns_ = -1;
  int64_t cancelled_ns_ = kNever;
  bool vanished_ = false;
  std::vector<int64_t> full_since_ns_;  // by choice
  std::optional<bool> late_;            // not known

  int32_t taken_tokens_ = 0;
  std::vector<std::vector<int32_t>> tokens_;
  std::vector<FinishReason> finish_reasons_;
  std::vector<int32_t> prompt_ids_;  // that came with prompt log-probabilities
  std::optional<RequestEnd> end_;
  int64_t end_seen_ns_ = 0;
  uint64_t trace_ = 0;
};

}  // namespace tuppence::simulation
