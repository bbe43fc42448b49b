#include "scheduler/step_budget.h"

#include <algorithm>

namespace tuppence {

void StepBudget::Start() {
  work_ = decode_work_ = StepWork();
  decode_tokens_ = prompt_tokens_ = 0;
}

void StepBudget::AddDecode(int32_t position) {
  const StepWork work = WorkOf(position, position + 1, Phase::kDecode);
  decode_work_.Add(work);
  work_.Add(work);
  ++decode_tokens_;
}

void StepBudget::AddPrompt(int32_t first, int32_t end, Phase phase) {
  work_.Add(WorkOf(first, end, phase));
  prompt_tokens_ += end - first;
}

void StepBudget::TakeBackPrompt(int32_t first, int32_t end, Phase phase) {
  const StepWork work = WorkOf(first, end, phase);
  work_.Add({-work.tokens, -work.query_keys, -work.kv_read_tokens});
  prompt_tokens_ -= end - first;
}

int32_t StepBudget::tokens_left() const {
  const int32_t budget =
      std::max(limits_.step_tokens_max - decode_tokens_, limits_.prefill_tokens_min);
  return budget - prompt_tokens_;
}

double StepBudget::TimeLimitNs() const {
  const double target_ns = static_cast<double>(limits_.itl_target_ns);
  const double decodes_ns = model_.StepNs(decode_work_);
  return std::max(target_ns, (decodes_ns > target_ns ? 3 : 2) * decodes_ns);
}

int32_t StepBudget::Fits(int32_t first, int32_t wanted, Phase phase) const {
  const int32_t most = std::min(wanted, tokens_left());
  if (most <= 0 || limits_.itl_target_ns == 0 || decode_tokens_ == 0) return std::max(0, most);
  const double limit_ns = TimeLimitNs();
  const auto in_time = [&](int32_t tokens) {
    StepWork work = work_;
    work.Add(WorkOf(first, first + tokens, phase));
    return model_.StepNs(work) <= limit_ns;
  };
  if (in_time(most)) return most;
  int32_t fits = 0;  // does, and `over` does not
  for (int32_t over = most; over - fits > 1;) {
    const int32_t middle = fits + (over - fits) / 2;
    (in_time(middle) ? fits : over) = middle;
  }
  const int32_t floor = prompt_tokens_ == 0 ? std::min(limits_.block_tokens, most) : 0;
  return std::max(fits, floor);
}

}  // namespace tuppence
