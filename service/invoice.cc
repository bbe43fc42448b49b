#include "service/invoice.h"

#include <algorithm>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/invoice_days.h"
#include "service/money.h"

namespace tuppence {
namespace {

constexpr ExactMoney kExactPerNanoUsd = ExactMoney{3'600'000'000} * kPpm;

int64_t SignedNanoUsd(ExactMoney money) { return money < 0 ? -NanoUsd(-money) : NanoUsd(money); }

// Money of charges that were still open, and its change over the window.
ExactMoney OpenMoney(const StoredPeriod& period, const RateCard& card) {
  ExactMoney open = 0;
  if (!card.known()) return 0;
  for (const StoredCharge& charge : period.charges) open += ExactMoneyOf(card, charge.open_ns);
  return open;
}

// Sums that are rounded only at the end.
struct ExactSums {
  ExactMoney open = 0;
  ExactMoney lost = 0;
  ExactMoney unrecorded = 0;
  ExactMoney rounding = 0;
};

// Arithmetic below takes for granted what the ledger promises; a store that was tampered with gets
// an error and no invoice.
bool HasNegative(const StoredPeriod& period) {
  const AccountTotals& booked = period.accounts;
  int64_t least = std::min({booked.startup_ns, booked.idle_ns, booked.request_ns,
                            booked.overhead_ns, booked.drain_ns, booked.unrecorded_ns});
  for (const StoredCharge& charge : period.charges) {
    least =
        std::min({least, charge.request_ns, charge.open_ns, charge.written_off_ns, charge.lost_ns});
  }
  return least < 0 || period.micro_usd_per_hour.value_or(0) < 0;
}

class InvoiceMaker {
 public:
  explicit InvoiceMaker(const InvoiceOptions& options) : days_(options.time_zone) {
    invoice_.options = options;
  }

  absl::StatusOr<Invoice> Make() {
    for (const std::string& path : invoice_.options.stores) {
      absl::StatusOr<std::unique_ptr<UsageReader>> reader = UsageReader::Open(path);
      if (!reader.ok()) return reader.status();
      if (absl::Status status = ReadStore(reader->get()); !status.ok()) return status;
    }
    AddTimeWithoutPeriods();
    RoundLines();
    Allocate();
    Sum();
    if (!invoice_.options.reprice.has_value()) Reconcile();
    return std::move(invoice_);
  }

 private:
  using Runs = std::map<std::string, StoredRun>;

  absl::Status ReadStore(UsageReader* reader) {
    absl::StatusOr<std::vector<StoredRun>> runs = reader->Runs();
    if (!runs.ok()) return runs.status();
    NameModels(&*runs);
    for (StoredRun& run : *runs) {
      const auto [known, added] = store_of_run_.emplace(run.run_id, reader->path());
      if (!added) {
        return absl::InvalidArgumentError(
            absl::StrCat("run ", run.run_id, " is in ", known->second, " and in ", reader->path(),
                         ": one is a copy of the other; give each store once"));
      }
      runs_.emplace(run.run_id, std::move(run));
    }
    absl::StatusOr<std::map<std::string, RateCard>> cards = reader->RateCards();
    if (!cards.ok()) return cards.status();
    absl::Status status = reader->ForEachPeriod(
        [&](const StoredPeriod& period) { return TakePeriod(reader->path(), period); });
    CloseRun();
    status.Update(reader->ForEachRequest(invoice_.options.window, [&](const StoredRequest& row) {
      return TakeRow(reader->path(), row, *cards);
    }));
    const absl::StatusOr<int64_t> removed = reader->RemovedRequests();
    status.Update(removed.status());
    if (status.ok()) invoice_.removed_rows += *removed;
    return status;
  }

  // A process that ended while it loaded never said what. Its machine's next one that did loaded
  // the same, as far as anybody knows; or else the one before.
  static void NameModels(std::vector<StoredRun>* runs) {
    std::map<std::string, std::string> near;  // by instance
    const auto name = [&near](StoredRun* run) {
      std::string& model = near[run->instance];
      if (run->model.empty()) {
        run->model = model;
      } else {
        model = run->model;
      }
    };
    for (auto run = runs->rbegin(); run != runs->rend(); ++run) name(&*run);
    near.clear();
    for (StoredRun& run : *runs) name(&run);
  }

  absl::StatusOr<const StoredRun*> RunOf(const std::string& path, const std::string& run_id) {
    const auto run = runs_.find(run_id);
    if (run == runs_.end()) {
      return absl::DataLossError(absl::StrCat(path, ": there is no run ", run_id,
                                              "; `tuppence ledger verify` names what is wrong"));
    }
    return &run->second;
  }

  RateCard CardAt(const StoredRun& run, const RateCard& booked, int64_t utc_ns) {
    if (!invoice_.options.reprice.has_value()) return booked;
    RateCard card = invoice_.options.reprice->At(utc_ns);
    card.machine_share_ppm = run.machine_share_ppm;
    return card;
  }

  absl::Status TakePeriod(const std::string& path, const StoredPeriod& period) {
    const absl::StatusOr<const StoredRun*> run = RunOf(path, period.run_id);
    if (!run.ok()) return run.status();
    if (HasNegative(period)) {
      return absl::DataLossError(
          absl::StrCat(path, ": period ", period.number, " of run ", period.run_id,
                       " has a negative number; `tuppence ledger verify` names what is wrong"));
    }
    if (period.run_id != current_run_) CloseRun();
    current_run_ = period.run_id;
    const RateCard card = CardAt(**run, period.Card(**run), period.utc_start_ns);
    const UtcWindow& window = invoice_.options.window;
    if (period.utc_start_ns < window.from_ns) open_before_ = OpenMoney(period, card);
    if (!window.Holds(period.utc_start_ns)) return absl::OkStatus();
    in_window_ = true;
    open_after_ = OpenMoney(period, card);
    Book(**run, period, card);
    return absl::OkStatus();
  }

  void Book(const StoredRun& run, const StoredPeriod& period, const RateCard& card) {
    ++invoice_.periods;
    runs_in_window_.insert(run.run_id);
    NoteCard(card);
    const absl::CivilDay day = days_.DayOf(period.utc_start_ns);
    const AccountTotals& booked = period.accounts;
    std::array<PricedTime, kOtherAccounts>& accounts =
        invoice_.machine_days[{day, run.model}].accounts;
    const std::array<int64_t, kOtherAccounts> ns = {booked.startup_ns,    booked.idle_ns,
                                                    booked.overhead_ns,   booked.drain_ns,
                                                    booked.unrecorded_ns, 0};
    for (int i = 0; i < kOtherAccounts; ++i) accounts[i].Add(card, ns[i]);
    for (const StoredCharge& charge : period.charges) {
      InvoiceLine& line = invoice_.lines[{day, charge.tenant, charge.model}];
      line.usage.Add(card, charge.request_ns);
      line.written_off.Add(card, charge.written_off_ns);
      if (card.known()) exact_.lost += ExactMoneyOf(card, charge.lost_ns);
    }
  }

  void NoteCard(const RateCard& card) {
    if (card.known() && cards_met_.insert(card.id).second) invoice_.rate_cards.push_back(card.id);
  }

  // The periods of a run are all seen.
  void CloseRun() {
    if (in_window_) exact_.open += open_after_ - open_before_;
    in_window_ = false;
    open_before_ = open_after_ = 0;
    current_run_.clear();
  }

  absl::Status TakeRow(const std::string& path, const StoredRequest& row,
                       const std::map<std::string, RateCard>& cards) {
    const absl::StatusOr<const StoredRun*> run = RunOf(path, row.run_id);
    if (!run.ok()) return run.status();
    InvoiceLine& line = invoice_.lines[{days_.DayOf(row.ended_utc_ns), row.tenant, row.model}];
    ++line.requests;
    line.prompt_tokens += row.prompt_tokens;
    line.cached_tokens += row.cached_tokens;
    line.completion_tokens += row.completion_tokens;
    // What failed by our own fault the API would have answered, or not have charged for either.
    if (!row.written_off) AddReference(row, &line);
    if (!row.cost_nanousd.has_value()) return absl::OkStatus();
    line.told_nanousd += *row.cost_nanousd;
    ++line.told_requests;
    if (row.ended_ns > (*run)->booked_until_ns) {
      invoice_.reconciliation.not_booked_nanousd += *row.cost_nanousd;
      return absl::OkStatus();
    }
    const auto card = cards.find(row.rate_card_id.value_or(""));
    if (row.written_off || card == cards.end()) return absl::OkStatus();
    RateCard of_row = card->second;
    of_row.machine_share_ppm = (*run)->machine_share_ppm;
    exact_.unrecorded += ExactMoneyOf(of_row, row.unrecorded_ns);
    // A row whose rate changed on the way was told the exact mixture; only the plain ones say how
    // much was rounded off them.
    const ExactMoney price = ExactMoneyOf(of_row, row.machine_ns);
    if (NanoUsd(price) == *row.cost_nanousd) {
      exact_.rounding += price - *row.cost_nanousd * kExactPerNanoUsd;
    }
    return absl::OkStatus();
  }

  void AddReference(const StoredRequest& row, InvoiceLine* line) {
    if (invoice_.options.reference.has_value()) {
      line->reference_nanousd += invoice_.options.reference->NanoUsd(
          row.prompt_tokens, row.cached_tokens, row.completion_tokens);
    } else if (row.reference_nanousd.has_value()) {
      line->reference_nanousd += *row.reference_nanousd;
      const std::string id = row.reference_id.value_or("");
      if (references_met_.insert(id).second) invoice_.reference_ids.push_back(id);
    } else {
      return;
    }
    ++line->reference_requests;
  }

  // Lost with killed processes, not booked yet, or between two processes.
  void AddTimeWithoutPeriods() {
    std::map<std::pair<std::string, std::string>, std::vector<const StoredRun*>> boots;
    for (const auto& [id, run] : runs_) boots[{run.instance, run.boot_id}].push_back(&run);
    for (auto& [key, runs] : boots) {
      std::sort(runs.begin(), runs.end(), [](const StoredRun* a, const StoredRun* b) {
        return a->started_ns < b->started_ns;
      });
      int64_t until_ns = runs.front()->started_ns;
      for (size_t i = 0; i < runs.size(); ++i) {
        const StoredRun& run = *runs[i];
        if (run.started_ns > until_ns && InWindow(run.UtcNs(until_ns))) {
          invoice_.down_ns += run.started_ns - until_ns;
        }
        until_ns = std::max(until_ns, run.last_sign_ns());
        // Nobody closed its books, and another came after it; not beside it, with its own store.
        const bool replaced = i + 1 < runs.size() && runs[i + 1]->started_ns >= run.last_sign_ns();
        const bool over = run.ended_ns.has_value() || replaced;
        AddUnaccounted(run, over);
      }
    }
  }

  void AddUnaccounted(const StoredRun& run, bool over) {
    const int64_t ns = run.unaccounted_ns();
    const int64_t utc_ns = run.UtcNs(run.booked_until_ns);
    if (ns == 0 || !InWindow(utc_ns)) return;
    if (!over) {
      invoice_.not_booked_ns += ns;
      return;
    }
    const RateCard card = CardAt(run, run.last_card, utc_ns);
    NoteCard(card);
    MachineDay& day = invoice_.machine_days[{days_.DayOf(utc_ns), run.model}];
    day.accounts[static_cast<int>(OtherAccount::kUnaccounted)].Add(card, ns);
    runs_in_window_.insert(run.run_id);
  }

  bool InWindow(int64_t utc_ns) const { return invoice_.options.window.Holds(utc_ns); }

  // Every part of the total in one list, so that they are rounded together.
  void RoundLines() {
    std::vector<PricedTime*> parts;
    std::vector<PricedTime*> credits;
    for (auto& [key, line] : invoice_.lines) {
      parts.push_back(&line.usage);
      credits.push_back(&line.written_off);
    }
    for (auto& [key, day] : invoice_.machine_days) {
      for (PricedTime& account : day.accounts) parts.push_back(&account);
    }
    for (const auto* list : {&parts, &credits}) {
      std::vector<ExactMoney> exact;
      for (const PricedTime* part : *list) exact.push_back(part->exact);
      const std::vector<int64_t> rounded = RoundTogether(exact);
      for (size_t i = 0; i < list->size(); ++i) (*list)[i]->nanousd = rounded[i];
    }
  }

  void Allocate() {
    for (auto& [key, day] : invoice_.machine_days) {
      const PricedTime pool = day.all();
      std::vector<InvoiceLine*> lines;
      for (auto& [line_key, line] : invoice_.lines) {
        if (line_key.day == key.day && line_key.model == key.model && line.usage.machine_ns > 0) {
          lines.push_back(&line);
        }
      }
      if (invoice_.options.allocation == Allocation::kNone || lines.empty()) {
        day.unallocated_ns = pool.machine_ns;
        day.unallocated_nanousd = pool.nanousd;
        continue;
      }
      Divide(pool, lines);
    }
  }

  // Money by money and time by time. Where nothing was priced money is 0 anyhow.
  void Divide(const PricedTime& pool, const std::vector<InvoiceLine*>& lines) {
    const bool even = invoice_.options.allocation == Allocation::kEven;
    std::vector<int64_t> by_ns;
    std::vector<int64_t> by_money;
    for (const InvoiceLine* line : lines) {
      by_ns.push_back(even ? 1 : line->usage.machine_ns);
      by_money.push_back(even ? 1 : line->usage.nanousd);
    }
    const bool money = std::any_of(by_money.begin(), by_money.end(), [](int64_t w) { return w; });
    const std::vector<int64_t> ns = Apportion(pool.machine_ns, by_ns);
    const std::vector<int64_t> nanousd = Apportion(pool.nanousd, money ? by_money : by_ns);
    for (size_t i = 0; i < lines.size(); ++i) {
      lines[i]->allocated_ns = ns[i];
      lines[i]->allocated_nanousd = nanousd[i];
    }
  }

  void Sum() {
    InvoiceLine& sum = invoice_.tenants;
    for (const auto& [key, line] : invoice_.lines) {
      sum.requests += line.requests;
      sum.prompt_tokens += line.prompt_tokens;
      sum.cached_tokens += line.cached_tokens;
      sum.completion_tokens += line.completion_tokens;
      sum.told_nanousd += line.told_nanousd;
      sum.told_requests += line.told_requests;
      sum.reference_nanousd += line.reference_nanousd;
      sum.reference_requests += line.reference_requests;
      sum.usage.Add(line.usage);
      sum.written_off.Add(line.written_off);
      sum.allocated_ns += line.allocated_ns;
      sum.allocated_nanousd += line.allocated_nanousd;
    }
    invoice_.machine = sum.usage;
    for (const auto& [key, day] : invoice_.machine_days) {
      for (int i = 0; i < kOtherAccounts; ++i) {
        invoice_.accounts[i].Add(day.accounts[i]);
        invoice_.machine.Add(day.accounts[i]);
      }
      invoice_.unallocated_ns += day.unallocated_ns;
      invoice_.unallocated_nanousd += day.unallocated_nanousd;
    }
    invoice_.runs = static_cast<int64_t>(runs_in_window_.size());
  }

  void Reconcile() {
    Reconciliation& lines = invoice_.reconciliation;
    lines.told_nanousd = invoice_.tenants.told_nanousd;
    lines.open_nanousd = SignedNanoUsd(exact_.open);
    lines.written_off_nanousd = invoice_.tenants.written_off.nanousd;
    lines.lost_nanousd = NanoUsd(exact_.lost);
    lines.unrecorded_nanousd = NanoUsd(exact_.unrecorded);
    lines.rounding_nanousd = SignedNanoUsd(exact_.rounding);
    lines.other_nanousd =
        invoice_.tenants.usage.nanousd -
        (lines.told_nanousd + lines.open_nanousd + lines.written_off_nanousd + lines.lost_nanousd -
         lines.unrecorded_nanousd - lines.not_booked_nanousd + lines.rounding_nanousd);
    // These lines themselves are rounded, and so are the invoice's: a few nano-dollars are that.
    const int64_t slack = 6 + static_cast<int64_t>(invoice_.lines.size());
    if (std::abs(lines.other_nanousd) <= slack) {
      lines.rounding_nanousd += std::exchange(lines.other_nanousd, 0);
    }
  }

  Invoice invoice_;
  InvoiceDays days_;
  Runs runs_;
  std::map<std::string, std::string> store_of_run_;
  std::set<std::string> runs_in_window_;
  std::set<std::string> cards_met_;
  std::set<std::string> references_met_;
  ExactSums exact_;

  // Of the run whose periods are being read.
  std::string current_run_;
  bool in_window_ = false;
  ExactMoney open_before_ = 0;
  ExactMoney open_after_ = 0;
};

}  // namespace

const std::array<const char*, kOtherAccounts> kOtherAccountNames = {
    "startup", "idle", "overhead", "drain", "unrecorded", "unaccounted"};

void PricedTime::Add(const RateCard& card, int64_t ns) {
  machine_ns += ns;
  if (card.known()) {
    exact += ExactMoneyOf(card, ns);
  } else {
    unpriced_ns += ns;
  }
}

void PricedTime::Add(const PricedTime& other) {
  machine_ns += other.machine_ns;
  unpriced_ns += other.unpriced_ns;
  exact += other.exact;
  nanousd += other.nanousd;
}

PricedTime MachineDay::all() const {
  PricedTime all;
  for (const PricedTime& account : accounts) all.Add(account);
  return all;
}

std::optional<int64_t> Invoice::break_even_requests() const {
  if (tenants.reference_nanousd <= 0) return std::nullopt;
  const ExactMoney requests =
      ExactMoney{machine.nanousd} * tenants.reference_requests + tenants.reference_nanousd - 1;
  return static_cast<int64_t>(requests / tenants.reference_nanousd);
}

absl::StatusOr<Invoice> MakeInvoice(const InvoiceOptions& options) {
  return InvoiceMaker(options).Make();
}

absl::StatusOr<int64_t> ParseInvoiceTime(const std::string& text, absl::TimeZone time_zone) {
  absl::Time time;
  std::string error;
  absl::CivilDay day;
  if (text.size() == 10 && absl::ParseCivilTime(text, &day)) {
    time = absl::FromCivil(day, time_zone);
  } else if (!absl::ParseTime(absl::RFC3339_full, text, &time, &error)) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text,
                     "\" is neither a day, as 2026-11-01, nor a time with offset, as "
                     "2026-11-01T12:00:00+01:00"));
  }
  return absl::ToUnixNanos(time);
}

}  // namespace tuppence
