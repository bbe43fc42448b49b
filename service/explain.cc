#include "service/explain.h"

#include <cstdlib>
#include <map>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "service/call_registry.h"
#include "service/money.h"
#include "service/text_table.h"

namespace tuppence {
namespace {

// To the nanosecond, for the parts must add up before the reader's eyes.
std::string ExactSeconds(int64_t ns) {
  return absl::StrFormat("%d.%09d s", ns / kNanoUsdPerUsd, ns % kNanoUsdPerUsd);
}

std::string UtcTime(int64_t utc_ns) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%E3S UTC", absl::FromUnixNanos(utc_ns),
                          absl::UTCTimeZone());
}

std::string Whose(const std::string& id, const std::string& caller_id, const std::string& tenant) {
  return absl::StrCat("Request ", id, " of tenant ", tenant,
                      caller_id.empty() ? "" : absl::StrCat(" (its own name: ", caller_id, ")"));
}

std::string HowItEnded(const StoredRequest& row) {
  static const std::map<std::string, std::string> kSentences = {
      {"ok", "the answer was complete"},
      {"length", "the answer reached its max_tokens"},
      {"cost_limit", "more would have cost more than the caller's max_cost_nanousd"},
      {"cancelled", "the caller cancelled it or went away; the work until then is booked"},
      {"deadline",
       "the caller's deadline passed; the work until then is booked, though the caller may not "
       "have "
       "seen the last message"},
      {"drained", "the service stopped before the answer was complete"},
      {"error", "it failed"}};
  const auto sentence = kSentences.find(row.outcome);
  std::string text = sentence == kSentences.end() ? row.outcome : sentence->second;
  if (row.code != 0) {
    absl::StrAppend(&text, " (", absl::StatusCodeToString(static_cast<absl::StatusCode>(row.code)),
                    ")");
  }
  return text;
}

std::string WhatItDid(const StoredRequest& row) {
  if (row.steps == 0) {
    return absl::StrCat("It waited ", Seconds(row.queue_ns), " s and never ran.\n");
  }
  std::string text =
      absl::StrCat("It waited ", Seconds(row.queue_ns), " s, read ", WithCommas(row.prompt_tokens),
                   " prompt tokens in ", Seconds(row.prefill_time_ns), " s and wrote ",
                   WithCommas(row.completion_tokens), " in ", Seconds(row.decode_time_ns),
                   " s: ", WithCommas(row.steps), " steps of the machine, each shared by ",
                   absl::StrFormat("%.2f", row.mean_requests_per_step), " requests in the mean.\n");
  if (row.cached_tokens > 0) {
    absl::StrAppend(&text, WithCommas(row.cached_tokens),
                    " of the prompt tokens were in the cache and took no machine time.\n");
  }
  if (row.preemptions > 0) {
    absl::StrAppend(&text, "It was set back ", WithCommas(row.preemptions),
                    " times for want of memory; what was computed twice is in the account "
                    "overhead, not here.\n");
  }
  return text;
}

std::string WhatWasBooked(const StoredRequest& row) {
  std::string text = absl::StrCat(
      "Booked: ", ExactSeconds(row.machine_ns), " of the machine\n",  //
      "  = ", ExactSeconds(row.shared_ns), " its part of what a step takes whoever is in it ",
      "(launch, reading the weights)\n",  //
      "  + ", ExactSeconds(row.own_ns), " its own arithmetic and its keys and values\n", "  = ",
      ExactSeconds(row.prefill_ns), " for the prompt + ", ExactSeconds(row.decode_ns),
      " for the answer\n");
  if (row.unrecorded_ns > 0) {
    absl::StrAppend(&text, "  of which ", ExactSeconds(row.unrecorded_ns),
                    " while the usage store could not be written: in the account unrecorded, on "
                    "no tenant's bill\n");
  }
  return text;
}

std::string WhatItCosts(const FoundRequest& found) {
  const StoredRequest& row = found.request;
  if (row.replay_of.has_value()) {
    return absl::StrCat("Cost: nothing. It made the answer of request ", *row.replay_of,
                        " again, whose cost that request bears.\n");
  }
  if (row.written_off) return "Cost: nothing. It failed by the service's own fault.\n";
  if (!row.cost_nanousd.has_value()) return "Cost: no rate card was in force.\n";
  std::string text = absl::StrCat("Cost: ", FormatUsd(*row.cost_nanousd), " USD, rate card ",
                                  row.rate_card_id.value_or(""));
  if (found.card.known()) {  // it is in the store once a period under it has closed
    absl::StrAppend(&text,
                    absl::StrFormat(", %.6g USD an hour", 1e-6 * found.card.micro_usd_per_hour));
    if (found.card.machine_share_ppm != kPpm) {
      absl::StrAppend(
          &text, absl::StrFormat(" x %.6g of the machine", 1e-6 * found.card.machine_share_ppm));
    }
    const bool one_card = NanoUsd(found.card, row.recorded_ns()) == *row.cost_nanousd ||
                          NanoUsd(found.card, row.machine_ns) == *row.cost_nanousd;
    if (!one_card) absl::StrAppend(&text, "; others were in force before");
  }
  absl::StrAppend(&text, "\n");
  if (!row.reference_nanousd.has_value()) return text;
  const int64_t less = *row.reference_nanousd - *row.cost_nanousd;
  absl::StrAppend(&text, "Reference price ", row.reference_id.value_or(""), ": ",
                  FormatUsd(*row.reference_nanousd), " USD, ", FormatUsd(std::abs(less)),
                  less >= 0 ? " more" : " less",
                  "; idle time is not in this cost, an invoice has it\n");
  return text;
}

}  // namespace

std::string Explain(const FoundRequest& found) {
  const StoredRequest& row = found.request;
  return absl::StrCat(Whose(row.request_id, row.caller_id, row.tenant), ", model ", row.model, "\n",
                      "Came ", UtcTime(row.received_utc_ns), ", ended ", Seconds(row.total_ns),
                      " s later: ", HowItEnded(row), ".\n", WhatItDid(row), WhatWasBooked(row),
                      WhatItCosts(found));
}

std::string ExplainOpen(const OpenCall& call, int64_t age_ns) {
  return absl::StrCat(Whose(call.request_id, call.caller_request_id, call.tenant), "\n", "It came ",
                      Seconds(age_ns), " s ago and is open: ", WithCommas(call.prompt_tokens),
                      " prompt tokens, ", WithCommas(call.completion_tokens), " of at most ",
                      WithCommas(call.max_tokens),
                      " written so far. Its cost is told when it ends.\n");
}

}  // namespace tuppence
