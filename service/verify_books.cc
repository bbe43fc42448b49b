#include "service/verify_books.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "service/budgets.h"
#include "service/usage_reader.h"

namespace tuppence {
namespace {

// One tenant's pages in one run, period by period.
struct Page {
  int64_t request_ns = 0;
  int64_t open_ns = 0;
  int64_t written_off_ns = 0;
  int64_t lost_ns = 0;
  // Of rows that ended in it.
  int64_t rows_ns = 0;
  int64_t rows_written_off_ns = 0;
};

struct PeriodEnd {
  int64_t number = 0;
  int64_t start_ns = 0;
  int64_t end_ns = 0;
  int64_t utc_start_ns = 0;
  RateCard card;
};

struct Account {  // whose pages
  std::string run_id;
  std::string tenant;
  std::string model;
  bool operator<(const Account& other) const {
    return std::tie(run_id, tenant, model) < std::tie(other.run_id, other.tenant, other.model);
  }
};

// By number in the run's list of periods; one more page for what came after the last of them.
using Pages = std::map<size_t, Page>;

class Verifier {
 public:
  explicit Verifier(UsageReader* reader) : reader_(reader) {}

  absl::StatusOr<VerifiedBooks> Verify() {
    absl::Status status = TakeRuns();
    if (status.ok()) {
      status = reader_->ForEachPeriod([&](const StoredPeriod& row) { return TakePeriod(row); });
    }
    if (status.ok()) status = CheckEnds();
    if (status.ok()) {
      status = reader_->ForEachRequest({}, [&](const StoredRequest& row) { return TakeRow(row); });
    }
    const absl::StatusOr<int64_t> removed = reader_->RemovedRequests();
    status.Update(removed.status());
    if (!status.ok()) return status;
    books_.removed_rows = *removed;
    for (const auto& [account, pages] : pages_) {
      if (status = CheckPages(account, pages); !status.ok()) return status;
    }
    if (status = CheckDays(); !status.ok()) return status;
    return books_;
  }

 private:
  struct Run {
    StoredRun row;
    std::vector<PeriodEnd> periods;
  };

  absl::Status Wrong(const std::string& row, const std::string& what) const {
    return absl::DataLossError(absl::StrCat(reader_->path(), ": ", row, ": ", what));
  }
  absl::Status Equal(const std::string& row, const std::string& what, int64_t found,
                     int64_t computed) const {
    if (found == computed) return absl::OkStatus();
    return Wrong(row, absl::StrCat(what, " is ", found, ", computed again it is ", computed));
  }
  absl::Status NotNegative(const std::string& row, std::initializer_list<int64_t> values) const {
    if (std::min(values) >= 0) return absl::OkStatus();
    return Wrong(row, absl::StrCat("holds ", std::min(values), "; nothing there is below 0"));
  }

  absl::Status TakeRuns() {
    absl::StatusOr<std::vector<StoredRun>> runs = reader_->Runs();
    if (!runs.ok()) return runs.status();
    absl::StatusOr<std::map<std::string, RateCard>> cards = reader_->RateCards();
    if (!cards.ok()) return cards.status();
    cards_ = *std::move(cards);
    for (StoredRun& run : *runs) {
      const std::string row = absl::StrCat("runs row ", run.run_id);
      if (run.machine_share_ppm <= 0 || run.machine_share_ppm > kPpm) {
        return Wrong(row, absl::StrCat("machine_share_ppm is ", run.machine_share_ppm));
      }
      if (run.ended_ns.has_value() && *run.ended_ns < run.started_ns) {
        return Wrong(row, "it ended before it started");
      }
      std::string id = run.run_id;
      runs_[id].row = std::move(run);
    }
    books_.runs = static_cast<int64_t>(runs_.size());
    return absl::OkStatus();
  }

  absl::Status TakePeriod(const StoredPeriod& period) {
    const std::string row =
        absl::StrCat("periods row (run ", period.run_id, ", number ", period.number, ")");
    const auto found = runs_.find(period.run_id);
    if (found == runs_.end()) return Wrong(row, "its run is not there");
    Run& run = found->second;
    absl::Status status = CheckPlace(row, period, run);
    status.Update(CheckSums(row, period));
    status.Update(CheckCard(row, period));
    if (!status.ok()) return status;
    for (const StoredCharge& charge : period.charges) {
      Page& page = pages_[{period.run_id, charge.tenant, charge.model}][run.periods.size()];
      page.request_ns = charge.request_ns;
      page.open_ns = charge.open_ns;
      page.written_off_ns = charge.written_off_ns;
      page.lost_ns = charge.lost_ns;
    }
    run.periods.push_back(
        {period.number, period.start_ns, period.end_ns, period.utc_start_ns, period.Card(run.row)});
    ++books_.periods;
    books_.held_ns += period.elapsed_ns();
    return absl::OkStatus();
  }

  // Retention takes periods away from the front only.
  absl::Status CheckPlace(const std::string& row, const StoredPeriod& period, const Run& run) {
    if (!run.periods.empty()) {
      const PeriodEnd& before = run.periods.back();
      absl::Status status = Equal(row, "number", period.number, before.number + 1);
      status.Update(Equal(row, "start_ns", period.start_ns, before.end_ns));
      return status;
    }
    return period.number == 0 ? Equal(row, "start_ns", period.start_ns, run.row.started_ns)
                              : absl::OkStatus();
  }

  absl::Status CheckSums(const std::string& row, const StoredPeriod& period) {
    const AccountTotals& booked = period.accounts;
    absl::Status status =
        NotNegative(row, {booked.startup_ns, booked.idle_ns, booked.request_ns, booked.overhead_ns,
                          booked.drain_ns, booked.unrecorded_ns, period.elapsed_ns()});
    status.Update(Equal(row, "the sum of its accounts", booked.sum_ns(), period.elapsed_ns()));
    int64_t charged_ns = 0;
    for (const StoredCharge& charge : period.charges) {
      status.Update(
          NotNegative(absl::StrCat("period_charges row of ", charge.tenant, " in ", row),
                      {charge.request_ns, charge.open_ns, charge.written_off_ns, charge.lost_ns}));
      charged_ns += charge.request_ns;
    }
    status.Update(Equal(row, "request_ns", booked.request_ns, charged_ns));
    return status;
  }

  absl::Status CheckCard(const std::string& row, const StoredPeriod& period) {
    if (period.rate_card_id.has_value() != period.micro_usd_per_hour.has_value()) {
      return Wrong(row, "has a rate card or a price, and not both");
    }
    if (!period.rate_card_id.has_value()) return absl::OkStatus();
    if (*period.micro_usd_per_hour < 0) return Wrong(row, "its price is below 0");
    if (cards_.count(*period.rate_card_id) > 0) return absl::OkStatus();
    return Wrong(row, absl::StrCat("its rate card ", *period.rate_card_id, " is not there"));
  }

  absl::Status CheckEnds() {
    for (const auto& [id, run] : runs_) {
      if (!run.row.ended_ns.has_value()) continue;
      if (run.row.last_sign_ns() > *run.row.ended_ns) {
        return Wrong(absl::StrCat("runs row ", id), absl::StrCat("ended_ns is ", *run.row.ended_ns,
                                                                 ", and a period or request "
                                                                 "of it ended at ",
                                                                 run.row.last_sign_ns()));
      }
      books_.unaccounted_ns += run.row.unaccounted_ns();
    }
    return absl::OkStatus();
  }

  absl::Status TakeRow(const StoredRequest& request) {
    const std::string row = absl::StrCat("requests row ", request.request_id);
    const auto found = runs_.find(request.run_id);
    if (found == runs_.end()) return Wrong(row, "its run is not there");
    const Run& run = found->second;
    absl::Status status = NotNegative(
        row, {request.shared_ns, request.own_ns, request.prefill_ns, request.decode_ns,
              request.unrecorded_ns, request.recorded_ns(), request.cached_tokens,
              request.prompt_tokens - request.cached_tokens, request.completion_tokens});
    status.Update(Equal(row, "machine_ns", request.machine_ns, request.shared_ns + request.own_ns));
    status.Update(
        Equal(row, "machine_ns", request.machine_ns, request.prefill_ns + request.decode_ns));
    status.Update(CheckCost(row, request, run));
    if (!status.ok()) return status;
    oldest_row_utc_ns_ = std::min(oldest_row_utc_ns_, request.ended_utc_ns);
    day_costs_[{request.tenant, DayOf(request.received_utc_ns)}] +=
        request.cost_nanousd.value_or(0);
    ++books_.requests;
    Page& page = pages_[{request.run_id, request.tenant, request.model}]
                       [PeriodOf(run.periods, request.ended_ns)];
    page.rows_ns += request.recorded_ns();
    if (request.written_off) page.rows_written_off_ns += request.recorded_ns();
    return absl::OkStatus();
  }

  // What tenants spent in a day is the rows received in it and what kills cut off, as far back as
  // all rows are kept.
  absl::Status CheckDays() {
    const auto days = reader_->Days();
    if (!days.ok()) return days.status();
    if (!days->has_value()) return absl::OkStatus();
    for (const StoredDay& day : **days) {
      const int64_t rows_nanousd = std::exchange(day_costs_[{day.tenant, day.day}], 0);
      if (books_.removed_rows > 0 && day.day * kDayNs < oldest_row_utc_ns_) continue;
      absl::Status status =
          Equal(absl::StrCat("tenant_days row (tenant ", day.tenant, ", day ", day.day, ")"),
                "spent_nanousd", day.spent_nanousd, rows_nanousd + day.cut_off_nanousd);
      if (!status.ok()) return status;
    }
    for (const auto& [day, nanousd] : day_costs_) {
      if (nanousd == 0 || (books_.removed_rows > 0 && day.second * kDayNs < oldest_row_utc_ns_)) {
        continue;
      }
      return Wrong(absl::StrCat("tenant_days row (tenant ", day.first, ", day ", day.second, ")"),
                   absl::StrCat("is not there, and requests of it cost ", nanousd));
    }
    return absl::OkStatus();
  }

  // The one whose (start, end] holds the moment: a request ends with the cut that ends its step.
  static size_t PeriodOf(const std::vector<PeriodEnd>& periods, int64_t ns) {
    const auto at = std::lower_bound(
        periods.begin(), periods.end(), ns,
        [](const PeriodEnd& period, int64_t moment) { return period.end_ns < moment; });
    return static_cast<size_t>(at - periods.begin());
  }

  // A request under one card all its life was told exactly its time at that card; under several,
  // something between the cheapest and the dearest.
  absl::Status CheckCost(const std::string& row, const StoredRequest& request, const Run& run) {
    const std::vector<PeriodEnd>& periods = run.periods;
    if (request.written_off) return Equal(row, "cost_nanousd", request.cost_nanousd.value_or(0), 0);
    const size_t first = PeriodOf(periods, request.ended_ns - request.total_ns);
    const size_t last = PeriodOf(periods, request.ended_ns);
    if (last >= periods.size()) return absl::OkStatus();  // its last period was lost
    if (first == 0 && request.ended_ns - request.total_ns < periods[0].start_ns) {
      return absl::OkStatus();  // its first one is kept no longer
    }
    int64_t least = std::numeric_limits<int64_t>::max();
    int64_t most = 0;
    bool known = true;
    for (size_t i = first; i <= last; ++i) {
      if (!periods[i].card.known()) {
        known = false;
        continue;
      }
      const int64_t cost = NanoUsd(periods[i].card, request.machine_ns);
      least = std::min(least, cost);
      most = std::max(most, cost);
    }
    if (!request.cost_nanousd.has_value()) {
      return known ? Wrong(row, absl::StrCat("cost_nanousd is not there, and ", most,
                                             " by the rate card"))
                   : absl::OkStatus();
    }
    const int64_t told = *request.cost_nanousd;
    if (least <= told && told <= most) return absl::OkStatus();
    if (least > most) return Wrong(row, "cost_nanousd is there, and no rate card was");
    return Wrong(row, absl::StrCat("cost_nanousd is ", told, ", computed again it is ", least,
                                   least == most ? "" : absl::StrCat(" to ", most)));
  }

  // What was charged, less what it is found again in, is 0 at the end of every period. A request
  // may be closed just before a cut that lies before its end; then the next period's rows have it.
  absl::Status CheckPages(const Account& account, const Pages& pages) {
    const std::vector<PeriodEnd>& periods = runs_[account.run_id].periods;
    if (periods.empty()) return absl::OkStatus();
    size_t first = periods[0].number == 0 ? 0 : 1;
    if (books_.removed_rows > 0) {
      while (first < periods.size() && periods[first].utc_start_ns < oldest_row_utc_ns_) ++first;
    }
    const auto page_of = [&](size_t i) {
      const auto page = pages.find(i);
      return page == pages.end() ? Page{} : page->second;
    };
    const auto wrong_by = [&](int64_t Page::*rows, size_t i, int64_t charged_ns, int64_t found_ns,
                              const char* what) {
      if (charged_ns == found_ns) return absl::OkStatus();
      const int64_t late_ns = charged_ns - found_ns;
      if (late_ns > 0 && late_ns <= page_of(i + 1).*rows) return absl::OkStatus();
      return Wrong(
          absl::StrCat("period_charges row (run ", account.run_id, ", number ", periods[i].number,
                       ", tenant ", account.tenant, ", model ", account.model, ")"),
          absl::StrCat(what, " up to its end is ", charged_ns, " ns, found again in rows it is ",
                       found_ns));
    };
    int64_t charged_ns = first == 0 ? 0 : page_of(first - 1).open_ns;
    int64_t found_ns = 0;
    int64_t written_off_ns = 0;
    int64_t rows_written_off_ns = 0;
    for (size_t i = first; i < periods.size(); ++i) {
      const Page page = page_of(i);
      charged_ns += page.request_ns - page.lost_ns;
      found_ns += page.rows_ns;
      written_off_ns += page.written_off_ns;
      rows_written_off_ns += page.rows_written_off_ns;
      absl::Status status = wrong_by(&Page::rows_ns, i, charged_ns - page.open_ns, found_ns,
                                     "what its ended requests were charged");
      status.Update(wrong_by(&Page::rows_written_off_ns, i, written_off_ns, rows_written_off_ns,
                             "what was written off"));
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  UsageReader* const reader_;
  VerifiedBooks books_;
  std::map<std::string, Run> runs_;
  std::map<std::string, RateCard> cards_;
  std::map<Account, Pages> pages_;
  std::map<std::pair<std::string, int64_t>, int64_t> day_costs_;  // of rows, by tenant and day
  int64_t oldest_row_utc_ns_ = std::numeric_limits<int64_t>::max();
};

}  // namespace

absl::StatusOr<VerifiedBooks> VerifyBooks(const std::string& path) {
  const absl::StatusOr<std::unique_ptr<UsageReader>> reader = UsageReader::Open(path);
  if (!reader.ok()) return reader.status();
  return Verifier(reader->get()).Verify();
}

}  // namespace tuppence
