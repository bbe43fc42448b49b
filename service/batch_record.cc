#include "service/batch_record.h"

#include "absl/strings/str_cat.h"

namespace tuppence {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array<const char*, kBatchStatuses> kNames = {
    "validating", "in_progress", "finalizing", "cancelling",
    "completed",  "failed",      "expired",    "cancelled"};
constexpr double kUsdPerNanoUsd = 1e-9;

// The sums that are counts; with their names in the store.
template <typename Sums, typename Do>
void ForEachSum(Sums& sums, const Do& what) {
  what("answered", sums.answered);
  what("refused", sums.refused);
  what("prompt_tokens", sums.prompt_tokens);
  what("cached_tokens", sums.cached_tokens);
  what("completion_tokens", sums.completion_tokens);
  what("cost_nanousd", sums.cost_nanousd);
  what("priced", sums.priced);
  what("reference_nanousd", sums.reference_nanousd);
  what("referenced", sums.referenced);
}

Json TimeOrNull(int64_t unix_seconds) { return unix_seconds > 0 ? Json(unix_seconds) : Json(); }

Json UsageOf(const BatchSums& sums) {
  const bool priced = sums.has_cost();
  Json usage = {
      {"input_tokens", sums.prompt_tokens},
      {"input_tokens_details", {{"cached_tokens", sums.cached_tokens}}},
      {"output_tokens", sums.completion_tokens},
      {"output_tokens_details", {{"reasoning_tokens", 0}}},
      {"total_tokens", sums.prompt_tokens + sums.completion_tokens},
      {"cost", priced ? Json(kUsdPerNanoUsd * static_cast<double>(sums.cost_nanousd)) : Json()},
      {"cost_nanousd", priced ? Json(sums.cost_nanousd) : Json()}};
  if (sums.referenced > 0) {
    usage["reference_nanousd"] = sums.reference_nanousd;
    usage["reference_id"] = sums.reference_id;
  }
  return usage;
}

}  // namespace

const char* NameOf(BatchStatus status) { return kNames[static_cast<size_t>(status)]; }

void BatchRecord::Reach(BatchStatus next, int64_t unix_seconds) {
  status = next;
  int64_t& at = reached_at[static_cast<size_t>(next)];
  if (at == 0) at = unix_seconds;
}

std::string SerialiseBatch(const BatchRecord& batch) {
  Json json = {{"id", batch.id},
               {"tenant", batch.tenant},
               {"endpoint", batch.endpoint},
               {"input_file_id", batch.input_file_id},
               {"output_file_id", batch.output_file_id},
               {"error_file_id", batch.error_file_id},
               {"status", static_cast<int>(batch.status)},
               {"created_at", batch.created_at},
               {"expires_at", batch.expires_at},
               {"output_expires_seconds", batch.output_expires_seconds},
               {"reached_at", batch.reached_at},
               {"lines", batch.lines},
               {"output_lines", batch.output_lines},
               {"error_lines", batch.error_lines},
               {"failure", batch.failure},
               {"reference_id", batch.sums.reference_id},
               {"metadata", batch.metadata}};
  ForEachSum(batch.sums, [&json](const char* name, int64_t sum) { json["sums"][name] = sum; });
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<BatchRecord> ParseBatch(const std::string& text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  BatchRecord batch;
  try {
    batch.id = json.at("id");
    batch.tenant = json.at("tenant");
    batch.endpoint = json.at("endpoint");
    batch.input_file_id = json.at("input_file_id");
    batch.output_file_id = json.at("output_file_id");
    batch.error_file_id = json.at("error_file_id");
    const int status = json.at("status");
    batch.status = static_cast<BatchStatus>(status % kBatchStatuses);
    batch.created_at = json.at("created_at");
    batch.expires_at = json.at("expires_at");
    batch.output_expires_seconds = json.value("output_expires_seconds", int64_t{0});
    batch.reached_at = json.at("reached_at").get<std::array<int64_t, kBatchStatuses>>();
    batch.lines = json.at("lines");
    batch.output_lines = json.at("output_lines");
    batch.error_lines = json.at("error_lines");
    batch.failure = json.at("failure");
    batch.sums.reference_id = json.at("reference_id");
    batch.metadata = json.at("metadata");
    ForEachSum(batch.sums, [&json](const char* name, int64_t& sum) {
      sum = json.at("sums").at(name).get<int64_t>();
    });
  } catch (const Json::exception& wrong) {
    return absl::DataLossError(absl::StrCat("the store's record of a batch: ", wrong.what()));
  }
  return batch;
}

Json OpenAiBatch(const BatchRecord& batch) {
  const auto at = [&batch](BatchStatus status) {
    return TimeOrNull(batch.reached_at[static_cast<size_t>(status)]);
  };
  const auto file = [&batch](const std::string& id, int64_t lines) {
    return batch.ended() && lines > 0 ? Json(id) : Json();
  };
  Json errors;
  if (!batch.failure.empty()) {
    errors = {{"object", "list"},
              {"data", Json::array({{{"code", "failed"},
                                     {"message", batch.failure},
                                     {"param", nullptr},
                                     {"line", nullptr}}})}};
  }
  return {{"id", batch.id},
          {"object", "batch"},
          {"endpoint", batch.endpoint},
          {"errors", std::move(errors)},
          {"input_file_id", batch.input_file_id},
          {"completion_window", "24h"},
          {"status", NameOf(batch.status)},
          {"output_file_id", file(batch.output_file_id, batch.output_lines)},
          {"error_file_id", file(batch.error_file_id, batch.error_lines)},
          {"created_at", batch.created_at},
          {"in_progress_at", at(BatchStatus::kInProgress)},
          {"expires_at", batch.expires_at},
          {"finalizing_at", at(BatchStatus::kFinalizing)},
          {"completed_at", at(BatchStatus::kCompleted)},
          {"failed_at", at(BatchStatus::kFailed)},
          {"expired_at", at(BatchStatus::kExpired)},
          {"cancelling_at", at(BatchStatus::kCancelling)},
          {"cancelled_at", at(BatchStatus::kCancelled)},
          {"request_counts",
           {{"total", batch.lines},
            {"completed", batch.sums.answered},
            {"failed", batch.sums.refused}}},
          {"usage", UsageOf(batch.sums)},
          {"metadata", batch.metadata}};
}

}  // namespace tuppence
