// What a config.json may not say: architectures and fields whose arithmetic this service does not
// have. Used by model/config only, before it reads the fields that it does have.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace tuppence {

// OK for a Phi3ForCausalLM without fields that would need other arithmetic. Otherwise the message
// names what was found, what is supported and the way out. Fields that cannot change an answer
// (dropout, initializer_range, use_cache, auto_map, ...) are not looked at.
absl::Status CheckSupported(const nlohmann::json& config);

// Fields that are neither read, nor refused, nor known to change no answer: nobody can say what
// they are for, so whoever serves the checkpoint should hear of them.
std::vector<std::string> UnknownFields(const nlohmann::json& config);

}  // namespace tuppence
