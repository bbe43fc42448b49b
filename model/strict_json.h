// JSON as the checkpoint readers accept it: one document, no duplicate keys, bounded depth. Used
// for config.json, safetensors headers and indexes, and the tokenizer's files.
//
// A duplicate key is refused because two readers may take different ones, and then the file that
// was checked is not the file that is served.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace tuppence {

constexpr int kJsonDepthMax = 32;

// Errors say what is wrong and where (byte or key); the caller adds the file's name.
absl::StatusOr<nlohmann::json> ParseStrictJson(std::string_view text,
                                               int depth_max = kJsonDepthMax);

// A value as it may be shown in a message: on one line, at most `chars_max` characters.
std::string ShowJson(const nlohmann::json& value, size_t chars_max = 80);

}  // namespace tuppence
