// JSON as we accept it: one document, no duplicate keys, bounded depth. Used for config.json,
// safetensors headers and indexes, the tokenizer's files, and requests over HTTP.
//
// A duplicate key is refused because two readers may take different ones, and then the file that
// was checked is not the file that is served.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace tuppence {

constexpr int kJsonDepthMax = 32;

// Errors say what is wrong and where (byte or key); the caller adds the file's name. `keys_max`
// bounds the keys of all objects together.
absl::StatusOr<nlohmann::json> ParseStrictJson(
    std::string_view text, int depth_max = kJsonDepthMax,
    int64_t keys_max = std::numeric_limits<int64_t>::max());

// INVALID_ARGUMENT where the value is no object or has a key that is not allowed: most often a
// misspelt one, whose value would be passed over in silence. `where` begins the message.
absl::Status CheckKeys(const nlohmann::json& object, const std::string& where,
                       std::initializer_list<const char*> allowed);

// A value as it may be shown in a message: on one line, at most `chars_max` characters.
std::string ShowJson(const nlohmann::json& value, size_t chars_max = 80);

}  // namespace tuppence
