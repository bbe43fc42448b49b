#include "service/export_books.h"

#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "service/usage_reader.h"

namespace tuppence {
namespace {

using Json = nlohmann::ordered_json;

template <typename Value>
Json OrNull(const std::optional<Value>& value) {
  return value.has_value() ? Json(*value) : Json();
}

std::string Line(const Json& json) {
  // A header may carry bytes that are no UTF-8.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Json ChargeJson(const StoredCharge& charge) {
  return {{"tenant", charge.tenant},         {"model", charge.model},
          {"request_ns", charge.request_ns}, {"open_ns", charge.open_ns},
          {"lost_ns", charge.lost_ns},       {"written_off_ns", charge.written_off_ns}};
}

Json PeriodJson(const StoredPeriod& period, const StoredRun& run) {
  Json json = {{"type", "period"},
               {"id", absl::StrCat("period:", period.run_id, ":", period.number)},
               {"run_id", period.run_id},
               {"number", period.number},
               {"instance", run.instance},
               {"boot_id", run.boot_id},
               {"machine_share_ppm", run.machine_share_ppm},
               {"utc_start_ns", period.utc_start_ns},
               {"start_ns", period.start_ns},
               {"end_ns", period.end_ns},
               {"rate_card_id", OrNull(period.rate_card_id)},
               {"micro_usd_per_hour", OrNull(period.micro_usd_per_hour)},
               {"startup_ns", period.accounts.startup_ns},
               {"idle_ns", period.accounts.idle_ns},
               {"request_ns", period.accounts.request_ns},
               {"overhead_ns", period.accounts.overhead_ns},
               {"drain_ns", period.accounts.drain_ns},
               {"unrecorded_ns", period.accounts.unrecorded_ns},
               {"charges", Json::array()}};
  for (const StoredCharge& charge : period.charges) json["charges"].push_back(ChargeJson(charge));
  return json;
}

Json RequestJson(const StoredRequest& row) {
  return {{"type", "request"},
          {"id", absl::StrCat("request:", row.request_id)},
          {"request_id", row.request_id},
          {"caller_id", row.caller_id},
          {"run_id", row.run_id},
          {"tenant", row.tenant},
          {"model", row.model},
          {"received_utc_ns", row.received_utc_ns},
          {"ended_utc_ns", row.ended_utc_ns},
          {"ended_ns", row.ended_ns},
          {"outcome", row.outcome},
          {"code", row.code},
          {"prompt_tokens", row.prompt_tokens},
          {"cached_tokens", row.cached_tokens},
          {"completion_tokens", row.completion_tokens},
          {"queue_ns", row.queue_ns},
          {"prefill_time_ns", row.prefill_time_ns},
          {"decode_time_ns", row.decode_time_ns},
          {"total_ns", row.total_ns},
          {"time_to_first_token_ns", row.time_to_first_token_ns},
          {"steps", row.steps},
          {"preemptions", row.preemptions},
          {"mean_requests_per_step", row.mean_requests_per_step},
          {"kv_block_seconds", row.kv_block_seconds},
          {"machine_ns", row.machine_ns},
          {"shared_ns", row.shared_ns},
          {"own_ns", row.own_ns},
          {"prefill_ns", row.prefill_ns},
          {"decode_ns", row.decode_ns},
          {"unrecorded_ns", row.unrecorded_ns},
          {"written_off", row.written_off},
          {"cost_nanousd", OrNull(row.cost_nanousd)},
          {"rate_card_id", OrNull(row.rate_card_id)},
          {"reference_nanousd", OrNull(row.reference_nanousd)},
          {"reference_id", OrNull(row.reference_id)},
          {"replay_of", OrNull(row.replay_of)}};
}

}  // namespace

absl::Status ExportBooks(const std::string& path, int64_t since_utc_ns,
                         const std::function<absl::Status(const std::string& line)>& write) {
  const absl::StatusOr<std::unique_ptr<UsageReader>> reader = UsageReader::Open(path);
  if (!reader.ok()) return reader.status();
  absl::StatusOr<std::vector<StoredRun>> list = (*reader)->Runs();
  if (!list.ok()) return list.status();
  std::map<std::string, StoredRun> runs;
  for (StoredRun& run : *list) runs[run.run_id] = std::move(run);
  absl::Status status = (*reader)->ForEachPeriod([&](const StoredPeriod& period) {
    if (period.utc_start_ns < since_utc_ns) return absl::OkStatus();
    return write(Line(PeriodJson(period, runs[period.run_id])));
  });
  if (!status.ok()) return status;
  return (*reader)->ForEachRequest({.from_ns = since_utc_ns}, [&](const StoredRequest& row) {
    return write(Line(RequestJson(row)));
  });
}

}  // namespace tuppence
