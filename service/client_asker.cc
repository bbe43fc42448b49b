#include "service/client_asker.h"

#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "service/answer_from_proto.h"
#include "service/convert.h"

namespace tuppence {

absl::Status ClientAsker::Ask(const BatchAsk& ask, const std::string& name, BatchAnswer* answer) {
  // There is no tokenizer here; the messages say what each token adds.
  auto token_bytes = std::make_shared<absl::flat_hash_map<int32_t, std::string>>();
  std::string replay_of;
  const absl::Status status = client_->Generate(
      ToProto(ask.ask),
      [&](const v1::GenerateResponse& message) {
        if (message.has_start()) {
          answer->Begin({.request_id = message.start().request_id(),
                         .created_unix_seconds = absl::ToUnixSeconds(absl::Now()),
                         .model = message.start().model(),
                         .arithmetic_id = arithmetic_id_,
                         .token_bytes = [token_bytes](int32_t token_id) {
                           const auto found = token_bytes->find(token_id);
                           return found == token_bytes->end() ? std::string_view()
                                                              : std::string_view(found->second);
                         }});
        }
        if (message.has_cost()) replay_of = message.cost().replay_of();
        answer->Add(DeltaFromProto(message, token_bytes.get()));
      },
      name);
  if (const auto booked = BookedOf(status)) answer->SetEnd(booked->usage, booked->cost);
  return status.ok() && !replay_of.empty() ? TellFirstCost(replay_of, answer) : status;
}

// A line costs what its first answer cost, which is what the books have of it. Where they have none
// it says whose replay it is, at no cost.
absl::Status ClientAsker::TellFirstCost(const std::string& request_id, BatchAnswer* answer) {
  v1::GetUsageResponse first;
  absl::Status found = client_->GetUsage(request_id, &first);
  if (absl::IsUnavailable(found)) return found;
  // Its answer is there before its end is booked: the runner looks until it is.
  if (found.ok() && first.open())
    return absl::UnavailableError("the first answer is not booked yet");
  if (found.ok()) answer->SetEnd(UsageFromProto(first.usage()), CostFromProto(first.cost()));
  return absl::OkStatus();
}

absl::Status ClientAsker::FindBooked(const std::string& name, BookedAnswer* booked) {
  v1::GetUsageResponse usage;
  if (absl::Status found = client_->GetUsage(name, &usage); !found.ok()) return found;
  booked->open = usage.open();
  booked->request_id = usage.request_id();
  booked->code = usage.code();
  booked->usage = UsageFromProto(usage.usage());
  booked->cost = CostFromProto(usage.cost());
  return absl::OkStatus();
}

}  // namespace tuppence
