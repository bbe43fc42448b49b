// The payload is a list of length-prefixed strings: reason, retry time, tenant, then keys and
// values.
#include "scheduler/refusal.h"

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace tuppence {
namespace {

constexpr char kPayload[] = "tuppence/refusal";

void AppendPart(const std::string& part, std::string* text) {
  absl::StrAppend(text, part.size(), ":", part);
}

// Takes one part off the front of *text; nothing when it is not of our making.
std::optional<std::string> TakePart(std::string_view* text) {
  const size_t colon = text->find(':');
  if (colon == std::string_view::npos) return std::nullopt;
  uint32_t bytes = 0;
  if (!absl::SimpleAtoi(std::string(text->substr(0, colon)), &bytes)) return std::nullopt;
  text->remove_prefix(colon + 1);
  if (bytes > text->size()) return std::nullopt;
  std::string part(text->substr(0, bytes));
  text->remove_prefix(bytes);
  return part;
}

}  // namespace

absl::Status RefusalStatus(absl::StatusCode code, std::string_view message,
                           const Refusal& refusal) {
  absl::Status status(code, absl::string_view(message.data(), message.size()));
  std::string text;
  AppendPart(refusal.reason, &text);
  AppendPart(absl::StrCat(refusal.retry_after_ms), &text);
  AppendPart(refusal.tenant, &text);
  for (const auto& [key, value] : refusal.metadata) {
    AppendPart(key, &text);
    AppendPart(value, &text);
  }
  status.SetPayload(kPayload, absl::Cord(text));
  return status;
}

std::optional<Refusal> RefusalOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kPayload);
  if (!payload.has_value()) return std::nullopt;
  const std::string text(*payload);
  std::string_view rest = text;
  const std::optional<std::string> reason = TakePart(&rest);
  const std::optional<std::string> retry = TakePart(&rest);
  const std::optional<std::string> tenant = TakePart(&rest);
  Refusal refusal;
  if (!tenant.has_value() || !absl::SimpleAtoi(*retry, &refusal.retry_after_ms)) {
    return std::nullopt;
  }
  refusal.reason = *reason;
  refusal.tenant = *tenant;
  while (!rest.empty()) {
    std::optional<std::string> key = TakePart(&rest);
    std::optional<std::string> value = TakePart(&rest);
    if (!value.has_value()) return std::nullopt;
    refusal.metadata.emplace_back(*std::move(key), *std::move(value));
  }
  return refusal;
}

}  // namespace tuppence
