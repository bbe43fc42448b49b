#include "tests/scheduler/simulation/books.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/scheduler/simulation/violation.h"

namespace tuppence::simulation {

Books::Books(const Scenario& scenario, int64_t start_ns, Disk* disk)
    : scenario_(scenario),
      disk_(disk),
      records_(scenario.records, scenario.options.sequences_max),
      last_end_ns_(start_ns) {}

bool Books::DiskFails(int64_t now_ns) const {
  return std::any_of(scenario_.disk.begin(), scenario_.disk.end(), [&](const DiskFault& fault) {
    return now_ns >= fault.from_ns && now_ns < fault.until_ns;
  });
}

void Books::Run(int64_t now_ns) {
  if (now_ns < busy_until_ns_) return;
  if (DiskFails(now_ns)) {
    if (failing_since_ns_ < 0) failing_since_ns_ = now_ns;
    if (now_ns - failing_since_ns_ < scenario_.books_patience_ns) return;
    unrecorded_ = true;
  } else {
    failing_since_ns_ = -1;
    unrecorded_ = false;
    for (EndedRequest& ended : std::exchange(waiting_, {})) EndCall(std::move(ended));
  }
  bool worked = false;
  while (StepRecord* record = records_.Front()) {
    TakeDown(record, /*stored=*/!unrecorded_);
    records_.Release();
    worked = true;
  }
  if (worked && now_ns < scenario_.faults_end_ns) busy_until_ns_ = now_ns + scenario_.books_lag_ns;
}

int64_t Books::next_ns(int64_t now_ns) const {
  int64_t next = busy_until_ns_ > now_ns ? busy_until_ns_ : kNever;
  if (failing_since_ns_ < 0) return next;
  const int64_t patient_until_ns = failing_since_ns_ + scenario_.books_patience_ns;
  if (patient_until_ns > now_ns) next = std::min(next, patient_until_ns);
  for (const DiskFault& fault : scenario_.disk) {
    if (fault.until_ns > now_ns) next = std::min(next, fault.until_ns);
  }
  return next;
}

void Books::TakeDown(StepRecord* record, bool stored) {
  for (EndedRequest& ended : record->ended) {
    CheckRow(ended);
    if (!stored && !ended.row.unrecorded) {
      waiting_.push_back(std::move(ended));  // it ended while rows could still be stored
    } else {
      EndCall(std::move(ended));
    }
  }
  for (const Period& period : record->periods) CheckPeriod(period);
}

void Books::EndCall(EndedRequest ended) {
  if (!ended.row.unrecorded) {
    Require(disk_->rows.insert(ended.row.id).second, "a row was stored twice");
  }
  ended.end.cost.unrecorded = ended.row.unrecorded;
  ended.stream->End(std::move(ended.end));
  if (!ended.stream->ClaimNotice()) return;
  std::vector<std::shared_ptr<TokenStream>> ready = {std::move(ended.stream)};
  engine_->notifier()->Post(&ready);
}

void Books::CheckRow(const EndedRequest& ended) {
  const RequestRow& row = ended.row;
  const Cost& cost = row.cost;
  const Usage& usage = row.usage;
  Require(seen_.insert(row.id).second, absl::StrCat("request ", row.id, " ended twice"));
  Require(cost.machine_ns == cost.shared_ns + cost.own_ns, "shared and own are not the whole");
  Require(cost.machine_ns == cost.prefill_ns + cost.decode_ns, "the phases are not the whole");
  Require(cost.machine_ns >= 0 && row.unrecorded_ns >= 0 && row.unrecorded_ns <= cost.machine_ns,
          "a charge below zero");
  Require(usage.queue_ns + usage.prefill_ns + usage.decode_ns == usage.total_ns,
          "a call's times do not add up");
  Require(usage.queue_ns >= 0 && usage.prefill_ns >= 0 && usage.decode_ns >= 0,
          "a call's time is below zero");
  Require(usage.preemptions <= scenario_.options.preemptions_max, "preempted too often");
  Require(!row.written_off || cost.cost_nanousd == 0, "what was written off has a price");
  Require(row.written_off || scenario_.cards_ns.size() > 0 ||
              cost.cost_nanousd == NanoUsd(scenario_.options.rate_card, cost.machine_ns),
          "the price is not the machine time at the rate card");
  ended_machine_ns_ += cost.machine_ns;
  // A row that is lost stands in its tenant's lost_ns.
  if (!row.unrecorded) tenants_[row.tenant].rows_ns += cost.machine_ns - row.unrecorded_ns;
}

void Books::CheckPeriod(const Period& period) {
  Require(period.number == periods_++, "a period is missing or came twice");
  Require(period.start_ns == last_end_ns_, "there is a gap between two periods");
  Require(period.accounts.sum_ns() == period.end_ns - period.start_ns,
          "a period's accounts do not add up to its time");
  last_end_ns_ = period.end_ns;
  int64_t request_ns = 0;
  for (auto& [name, tenant] : tenants_) tenant.open_ns = 0;
  for (const TenantCharges& charges : period.tenants) {
    request_ns += charges.request_ns;
    Tenant& tenant = tenants_[charges.tenant];
    tenant.request_ns += charges.request_ns;
    tenant.lost_ns += charges.lost_ns;
    tenant.open_ns = charges.open_ns;
  }
  Require(request_ns == period.accounts.request_ns,
          "the tenants' charges do not add up to the period's");
  accounts_.startup_ns += period.accounts.startup_ns;
  accounts_.idle_ns += period.accounts.idle_ns;
  accounts_.request_ns += period.accounts.request_ns;
  accounts_.overhead_ns += period.accounts.overhead_ns;
  accounts_.drain_ns += period.accounts.drain_ns;
  accounts_.unrecorded_ns += period.accounts.unrecorded_ns;
}

void Books::Forget() {
  while (records_.Front() != nullptr) records_.Release();
  waiting_.clear();
}

void Books::CheckClosed(const CostLedger& ledger, int64_t requests) {
  Require(ended() == requests, "the books did not hear of every request");
  Require(accounts_.sum_ns() == last_end_ns_ - ledger.start_ns(), "the periods have gaps");
  Require(last_end_ns_ == ledger.last_cut_ns(), "the last period is missing");
  Require(accounts_.request_ns == ledger.totals().request_ns, "the request account differs");
  Require(ended_machine_ns_ == ledger.totals().request_ns + ledger.totals().unrecorded_ns,
          "the charges of all requests are not the time that was booked to them");
  for (const auto& [name, tenant] : tenants_) {
    Require(tenant.open_ns == 0, absl::StrCat(name, " has charges open though nothing runs"));
    Require(tenant.request_ns == tenant.rows_ns + tenant.lost_ns,
            absl::StrCat("the rows of ", name, " do not add up to its account"));
  }
}

}  // namespace tuppence::simulation
