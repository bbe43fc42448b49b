// The invoice on paper: a table for people, CSV, JSON, and CSV with FOCUS columns for cost tools.
// Pure. Called by invoice_command.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "service/invoice.h"

namespace tuppence {

std::string FormatInvoiceTable(const Invoice& invoice);

// One row for each tenant, model and day (account "request"), one for each other account of each
// model and day. usage_nanousd adds up to the total, and so does allocation_nanousd.
std::string FormatInvoiceCsv(const Invoice& invoice);

std::string FormatInvoiceJson(const Invoice& invoice);

// FOCUS 1.2 (FinOps Open Cost and Usage Specification): BilledCost and EffectiveCost are the
// `allocation` basis, credits rows of their own. FAILED_PRECONDITION where time has no rate card:
// FOCUS knows no cost that is unknown.
absl::StatusOr<std::string> FormatInvoiceFocus(const Invoice& invoice);

// "2026-11-01", and names of the allocation and of the time window for headings.
std::string FormatDay(absl::CivilDay day);
const char* AllocationName(Allocation allocation);
std::string FormatTime(int64_t utc_ns, absl::TimeZone time_zone);

}  // namespace tuppence
