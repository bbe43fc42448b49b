#include "service/bill.h"

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/invoice.h"
#include "service/money.h"
#include "service/usage_reader.h"

namespace tuppence {
namespace {

// A stretch of time in which a process held a machine.
struct Held {
  int64_t from_ns = 0;
  int64_t to_ns = 0;
  RateCard card;  // with the share
};

using HeldByInstance = std::map<std::string, std::vector<Held>>;

// A month is many periods and few cards: stretches that follow each other become one.
void Append(Held next, std::vector<Held>* held) {
  if (!held->empty() && held->back().to_ns == next.from_ns && held->back().card == next.card) {
    held->back().to_ns = next.to_ns;
  } else {
    held->push_back(std::move(next));
  }
}

absl::Status ReadStore(const std::string& path, HeldByInstance* held) {
  absl::StatusOr<std::unique_ptr<UsageReader>> reader = UsageReader::Open(path);
  if (!reader.ok()) return reader.status();
  const absl::StatusOr<std::vector<StoredRun>> runs = (*reader)->Runs();
  if (!runs.ok()) return runs.status();
  std::map<std::string, const StoredRun*> by_id;
  for (const StoredRun& run : *runs) {
    by_id[run.run_id] = &run;
    (*held)[run.instance];
  }
  absl::Status status = (*reader)->ForEachPeriod([&](const StoredPeriod& period) {
    const auto found = by_id.find(period.run_id);
    if (found == by_id.end() || period.elapsed_ns() < 0) {
      return absl::DataLossError(absl::StrCat(path, ": period ", period.number, " of run ",
                                              period.run_id,
                                              " is not right; try `tuppence ledger verify`"));
    }
    const StoredRun& run = *found->second;
    Append({run.UtcNs(period.start_ns), run.UtcNs(period.end_ns), period.Card(run)},
           &(*held)[run.instance]);
    return absl::OkStatus();
  });
  for (const StoredRun& run : *runs) {
    if (run.unaccounted_ns() == 0) continue;
    (*held)[run.instance].push_back(
        {run.UtcNs(run.booked_until_ns), run.UtcNs(run.last_sign_ns()), run.last_card});
  }
  return status;
}

// Money of whole-machine time at a card's rate.
ExactMoney WholeMachine(const RateCard& card, int64_t ns) {
  if (!card.known()) return 0;
  return ExactMoney{ns} * card.micro_usd_per_hour * kPpm;
}

// Bill lines of one machine that follow each other without a gap: from its start to its end.
struct Span {
  std::vector<BillLine> lines;
  int64_t from_ns = 0;
  int64_t to_ns = 0;
};

class MachineComparer {
 public:
  MachineComparer(const BillOptions& options, std::string instance, std::vector<Held> held)
      : options_(options), held_(std::move(held)) {
    machine_.instance = std::move(instance);
    std::sort(held_.begin(), held_.end(),
              [](const Held& a, const Held& b) { return a.from_ns < b.from_ns; });
  }

  BillMachine Compare(std::vector<BillLine> lines, bool has_store, int64_t bill_from_ns,
                      int64_t bill_to_ns) {
    machine_.has_store = has_store;
    std::stable_sort(lines.begin(), lines.end(), [](const BillLine& a, const BillLine& b) {
      return a.start_utc_ns < b.start_utc_ns;
    });
    for (const BillLine& line : lines) Place(line);
    for (const Span& span : spans_) CompareSpan(span);
    for (const Held& held : held_) {
      const int64_t ns = std::min(held.to_ns, bill_to_ns) - std::max(held.from_ns, bill_from_ns);
      if (ns > 0) CountBooked(held, ns);
    }
    Finish();
    return std::move(machine_);
  }

 private:
  // A line that goes over time billed already explains nothing there.
  void Place(const BillLine& line) {
    machine_.billed_nanousd += line.amount_nanousd;
    const int64_t covered_ns = spans_.empty() ? line.start_utc_ns : spans_.back().to_ns;
    BillLine rest = line;
    rest.start_utc_ns = std::max(line.start_utc_ns, covered_ns);
    const int64_t whole_ns = line.end_utc_ns - line.start_utc_ns;
    const int64_t rest_ns = rest.end_utc_ns - rest.start_utc_ns;
    const bool empty_but_billed = whole_ns == 0 && rest_ns == 0;
    if (rest_ns <= 0 && !empty_but_billed) return;
    if (rest_ns < whole_ns) {
      rest.amount_nanousd =
          static_cast<int64_t>(ExactMoney{line.amount_nanousd} * rest_ns / whole_ns);
    }
    machine_.billed_ns += rest_ns;
    if (spans_.empty() || rest.start_utc_ns > covered_ns) {
      spans_.push_back({.lines = {}, .from_ns = rest.start_utc_ns, .to_ns = rest.start_utc_ns});
    }
    spans_.back().to_ns = rest.end_utc_ns;
    spans_.back().lines.push_back(std::move(rest));
  }

  void CompareSpan(const Span& span) {
    int64_t at_ns = span.from_ns;
    bool started = false;
    RateCard rate = FirstRate(span);
    // Sweeps over the moments at which something begins or ends.
    std::set<int64_t> cuts = {span.from_ns, span.to_ns};
    for (const Held& held : held_) {
      cuts.insert(std::clamp(held.from_ns, span.from_ns, span.to_ns));
      cuts.insert(std::clamp(held.to_ns, span.from_ns, span.to_ns));
    }
    int64_t gap_ns = 0;  // since the last process
    ExactMoney gap = 0;
    for (auto cut = std::next(cuts.begin()); cut != cuts.end(); ++cut) {
      const int64_t ns = *cut - at_ns;
      const std::vector<const Held*> now = HeldAt(at_ns);
      at_ns = *cut;
      if (now.empty()) {
        gap_ns += ns;
        gap += WholeMachine(rate, ns);
        continue;
      }
      AddCause(started ? BillCause::kDown : BillCause::kBeforeStart, gap_ns, gap);
      gap_ns = 0;
      gap = 0;
      started = true;
      rate = now.back()->card;
      AddHeld(now, ns);
    }
    AddCause(started ? BillCause::kAfterExit : BillCause::kBeforeStart, gap_ns, gap);
    const int64_t minimum_ns = AddedByMinimum(span);
    AddCause(BillCause::kMinimum, minimum_ns, WholeMachine(rate, minimum_ns));
    ExplainPrice(span, minimum_ns);
  }

  // What the gap before the first process is counted at.
  RateCard FirstRate(const Span& span) const {
    const Held* last = nullptr;
    for (const Held& held : held_) {
      if (held.to_ns > span.from_ns && held.card.known()) return held.card;
      last = &held;
    }
    return last != nullptr ? last->card : RateCard{};
  }

  std::vector<const Held*> HeldAt(int64_t utc_ns) const {
    std::vector<const Held*> now;
    for (const Held& held : held_) {
      if (held.from_ns > utc_ns) break;
      if (utc_ns < held.to_ns) now.push_back(&held);
    }
    return now;
  }

  void AddHeld(const std::vector<const Held*>& now, int64_t ns) {
    int64_t free_ppm = kPpm;
    for (const Held* held : now) {
      free_ppm -= held->card.machine_share_ppm;
      if (held->card.known()) booked_billed_ += ExactMoneyOf(held->card, ns);
    }
    const RateCard& card = now.back()->card;
    if (free_ppm <= 0 || !card.known()) return;
    RateCard others = card;
    others.machine_share_ppm = free_ppm;
    AddCause(BillCause::kOtherShare, 0, ExactMoneyOf(others, ns));
  }

  int64_t AddedByMinimum(const Span& span) const {
    const int64_t ns = span.to_ns - span.from_ns;
    const int64_t steps = (ns + options_.increment_ns - 1) / options_.increment_ns;
    return std::max(options_.minimum_ns, steps * options_.increment_ns) - ns;
  }

  // What the bill should come to by the price that is known for it; without one, what it comes to.
  void ExplainPrice(const Span& span, int64_t minimum_ns) {
    if (!machine_.has_store) return;
    for (size_t i = 0; i < span.lines.size(); ++i) {
      const BillLine& line = span.lines[i];
      const int64_t added_ns = i + 1 == span.lines.size() ? minimum_ns : 0;
      if (line.micro_usd_per_hour.has_value()) {
        RateCard card;
        card.micro_usd_per_hour = *line.micro_usd_per_hour;
        explained_ += WholeMachine(card, line.end_utc_ns - line.start_utc_ns + added_ns);
      } else if (options_.rates.has_value()) {
        explained_ += AtRates(line.start_utc_ns, line.end_utc_ns);
        explained_ += WholeMachine(options_.rates->At(line.end_utc_ns - 1), added_ns);
      } else {
        machine_.price_from_bill = true;
        explained_by_bill_ += line.amount_nanousd;
      }
    }
  }

  ExactMoney AtRates(int64_t from_ns, int64_t to_ns) const {
    ExactMoney money = 0;
    while (from_ns < to_ns) {
      const int64_t next_ns = std::min(to_ns, options_.rates->NextChange(from_ns));
      money += WholeMachine(options_.rates->At(from_ns), next_ns - from_ns);
      from_ns = next_ns;
    }
    return money;
  }

  void AddCause(BillCause cause, int64_t ns, ExactMoney money) {
    machine_.cause_ns[static_cast<int>(cause)] += ns;
    causes_[static_cast<int>(cause)] += money;
  }

  void CountBooked(const Held& held, int64_t ns) {
    machine_.booked_ns += ns;
    if (held.card.known()) {
      booked_ += ExactMoneyOf(held.card, ns);
    } else {
      machine_.unpriced_ns += ns;
    }
  }

  void Finish() {
    std::vector<ExactMoney> parts(causes_.begin(), causes_.end());
    parts.push_back(booked_billed_);
    const std::vector<int64_t> rounded = RoundTogether(parts);
    int64_t base_nanousd = 0;
    for (size_t i = 0; i < rounded.size(); ++i) {
      base_nanousd += rounded[i];
      if (i < kBillCauses) machine_.cause_nanousd[i] = rounded[i];
    }
    // Booked, and in no line of the bill.
    const int64_t beyond_nanousd = NanoUsd(booked_ - booked_billed_);
    machine_.booked_nanousd = rounded.back() + beyond_nanousd;
    const int64_t explained_nanousd = NanoUsd(explained_) + explained_by_bill_;
    const bool priced = explained_ > 0 || machine_.price_from_bill || base_nanousd == 0;
    const int64_t expected_nanousd = priced ? explained_nanousd : base_nanousd;
    machine_.cause_nanousd[static_cast<int>(BillCause::kPrice)] = expected_nanousd - base_nanousd;
    machine_.cause_nanousd[static_cast<int>(BillCause::kUnexplained)] =
        machine_.billed_nanousd - expected_nanousd - beyond_nanousd;
  }

  const BillOptions& options_;
  std::vector<Held> held_;
  std::vector<Span> spans_;
  BillMachine machine_;
  std::array<ExactMoney, kBillCauses> causes_ = {};
  ExactMoney booked_ = 0;         // within the bill's time
  ExactMoney booked_billed_ = 0;  // of it, within a line of the bill
  ExactMoney explained_ = 0;
  int64_t explained_by_bill_ = 0;
};

void AddTo(const BillMachine& machine, BillMachine* total) {
  total->billed_nanousd += machine.billed_nanousd;
  total->billed_ns += machine.billed_ns;
  total->booked_nanousd += machine.booked_nanousd;
  total->booked_ns += machine.booked_ns;
  total->unpriced_ns += machine.unpriced_ns;
  for (int i = 0; i < kBillCauses; ++i) {
    total->cause_nanousd[i] += machine.cause_nanousd[i];
    total->cause_ns[i] += machine.cause_ns[i];
  }
}

}  // namespace

const std::array<const char*, kBillCauses> kBillCauseNames = {
    "before start", "down",  "after exit", "minimum and increment",
    "other share",  "price", "unexplained"};

std::optional<int64_t> BillMachine::booked_money() const {
  if (booked_ns > 0 && unpriced_ns == booked_ns) return std::nullopt;
  return booked_nanousd;
}

std::optional<int64_t> BillMachine::cause_money(int cause) const {
  const bool no_rate = unpriced_ns == booked_ns && cause_nanousd[cause] == 0;
  // The others' share is of the time booked, and has none of its own.
  const int64_t ns =
      cause == static_cast<int>(BillCause::kOtherShare) ? booked_ns : cause_ns[cause];
  if (no_rate && ns != 0) return std::nullopt;
  return cause_nanousd[cause];
}

absl::StatusOr<BillComparison> CompareBill(const BillOptions& options) {
  HeldByInstance held;
  for (const std::string& path : options.stores) {
    if (absl::Status status = ReadStore(path, &held); !status.ok()) return status;
  }
  std::map<std::string, std::vector<BillLine>> lines;
  int64_t from_ns = std::numeric_limits<int64_t>::max();
  int64_t to_ns = std::numeric_limits<int64_t>::min();
  for (const BillLine& line : options.lines) {
    lines[line.instance].push_back(line);
    from_ns = std::min(from_ns, line.start_utc_ns);
    to_ns = std::max(to_ns, line.end_utc_ns);
  }
  std::set<std::string> instances;
  for (const auto& [instance, of_it] : lines) instances.insert(instance);
  for (const auto& [instance, of_it] : held) instances.insert(instance);
  BillComparison comparison;
  comparison.total.instance = "all machines";
  comparison.total.has_store = true;
  for (const std::string& instance : instances) {
    const bool has_store = held.count(instance) > 0;
    BillMachine machine = MachineComparer(options, instance, held[instance])
                              .Compare(lines[instance], has_store, from_ns, to_ns);
    if (machine.billed_nanousd == 0 && machine.booked_ns == 0) continue;
    AddTo(machine, &comparison.total);
    comparison.machines.push_back(std::move(machine));
  }
  return comparison;
}

}  // namespace tuppence
