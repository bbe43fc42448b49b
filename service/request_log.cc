#include "service/request_log.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "scheduler/refusal.h"
#include "service/convert.h"

namespace tuppence {
namespace {

using Json = nlohmann::ordered_json;

double Milliseconds(int64_t ns) { return static_cast<double>(ns / 1000) / 1000; }

void AddEnd(const RequestEnd& end, Json* line) {
  Json reasons = Json::array();
  for (const FinishReason reason : end.finish_reasons) reasons.push_back(NameOf(reason));
  (*line)["finish_reasons"] = std::move(reasons);
  (*line)["prompt_tokens"] = end.usage.prompt_tokens;
  (*line)["cached_tokens"] = end.usage.cached_tokens;
  (*line)["completion_tokens"] = end.usage.completion_tokens;
  (*line)["queue_ms"] = Milliseconds(end.usage.queue_ns);
  (*line)["prefill_ms"] = Milliseconds(end.usage.prefill_ns);
  (*line)["decode_ms"] = Milliseconds(end.usage.decode_ns);
  (*line)["time_to_first_token_ms"] = Milliseconds(end.usage.time_to_first_token_ns);
  (*line)["steps"] = end.usage.steps;
  (*line)["preemptions"] = end.usage.preemptions;
  (*line)["machine_ns"] = end.cost.machine_ns;
  if (end.cost.has_rate) {
    (*line)["cost_nanousd"] = end.cost.cost_nanousd;
    (*line)["rate_card_id"] = end.cost.rate_card_id;
  }
  if (end.cost.written_off) (*line)["written_off"] = true;
  if (!end.cost.replay_of.empty()) (*line)["replay_of"] = end.cost.replay_of;
  if (end.cost.unrecorded) (*line)["unrecorded"] = true;
  if (end.cost.has_reference) {
    (*line)["reference_nanousd"] = end.cost.reference_nanousd;
    (*line)["reference_id"] = end.cost.reference_id;
  }
}

}  // namespace

std::string FormatRecord(const CallRecord& record) {
  Json line;
  line["time"] = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::FromUnixNanos(record.ended_utc_ns),
                                  absl::UTCTimeZone());
  line["event"] = "request";
  line["method"] = std::string(record.method);
  line["request_id"] = record.identity->request_id;
  if (!record.identity->caller_request_id.empty()) {
    line["caller_request_id"] = record.identity->caller_request_id;
  }
  line["tenant"] = record.identity->tenant;
  if (!record.identity->traceparent.empty()) line["traceparent"] = record.identity->traceparent;
  line["outcome"] = absl::StatusCodeToString(record.status->code());
  if (const auto refusal = RefusalOf(*record.status); refusal.has_value()) {
    line["reason"] = refusal->reason;
  }
  line["total_ms"] = Milliseconds(record.total_ns);
  if (record.end != nullptr) AddEnd(*record.end, &line);
  return line.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
}

RequestLog::RequestLog(std::function<void(std::string_view)> write) : write_(std::move(write)) {}

void RequestLog::Write(const CallRecord& record) const {
  if (write_) write_(FormatRecord(record));
}

}  // namespace tuppence
