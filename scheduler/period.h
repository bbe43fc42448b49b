// Period: a page of the books, about a minute long; the first one is the startup, however long that
// took. Closed by the ledger at the end of a step or an idle wait, kept by the usage store;
// invoices are made from periods alone. A new rate card and every quarter-hour of UTC begin a new
// one, so that a day in any time zone is a set of whole periods.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "scheduler/rate_card.h"

namespace tuppence {

// Nanoseconds of each account; together the time they cover, without a gap.
struct AccountTotals {
  int64_t startup_ns = 0;
  int64_t idle_ns = 0;
  int64_t request_ns = 0;
  int64_t overhead_ns = 0;
  int64_t drain_ns = 0;
  int64_t unrecorded_ns = 0;  // work for requests whose rows could not be stored

  int64_t sum_ns() const {
    return startup_ns + idle_ns + request_ns + overhead_ns + drain_ns + unrecorded_ns;
  }
};

// What one tenant's requests were charged within a period.
struct TenantCharges {
  std::string tenant;
  int64_t request_ns = 0;      // charged in this period, whether or not the request has ended
  int64_t open_ns = 0;         // charged so far, in all periods, to requests open at its end
  int64_t written_off_ns = 0;  // of rows that ended in this period by our own fault
  // Of requests that ended in this period while no row could be stored: what they had been charged
  // in this or an earlier period's request account. Over whole periods request_ns is the rows'
  // machine_ns - unrecorded_ns, and the last open_ns, and lost_ns.
  int64_t lost_ns = 0;
};

struct Period {
  int64_t number = 0;    // 0, 1, ... in one process
  int64_t start_ns = 0;  // monotonic; the end of the period before
  int64_t end_ns = 0;
  int64_t utc_start_ns = 0;
  RateCard rate_card;  // one for the whole period
  AccountTotals accounts;
  std::vector<TenantCharges> tenants;  // their request_ns add up to accounts.request_ns
};

}  // namespace tuppence
