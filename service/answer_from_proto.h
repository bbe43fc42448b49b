// answer_from_proto: messages of an answer back to what the engine delivered, for clients of ours
// that write answers down as the service does (openai_answer). The counterpart of convert. Pure.
#pragma once

#include <cstdint>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "scheduler/request.h"
#include "scheduler/token_stream.h"
#include "tuppence/v1/tuppence.pb.h"

namespace tuppence {

// What the message brings. *token_bytes learns what each token that it shows adds to the text.
StreamDelta DeltaFromProto(const v1::GenerateResponse& message,
                           absl::flat_hash_map<int32_t, std::string>* token_bytes);

Usage UsageFromProto(const v1::Usage& usage);
Cost CostFromProto(const v1::Cost& cost);

}  // namespace tuppence
