// See json_fields.h.
#include "model/json_fields.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "model/strict_json.h"

namespace tuppence {

using nlohmann::json;

namespace {

// Whole numbers written as such; 4096.0 and 1e3 are not, and neither is anything beyond 64 bits.
std::optional<int64_t> WholeNumber(const json& value) {
  if (value.is_number_unsigned()) {
    const uint64_t number = value.get<uint64_t>();
    if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
    return static_cast<int64_t>(number);
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  return std::nullopt;
}

}  // namespace

const json* JsonFields::Find(const std::string& name) const {
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

int32_t JsonFields::Int(const std::string& name, int32_t min, int32_t max,
                        std::optional<int32_t> absent) {
  const json* value = Find(name);
  if (value == nullptr) {
    if (absent.has_value()) return *absent;
    Refuse(absl::StrCat(name, " is missing; a Phi-3 config.json states it; download it again"));
    return min;
  }
  const std::optional<int64_t> number = WholeNumber(*value);
  if (!number.has_value() || *number < min || *number > max) {
    RefuseValue(name, *value, absl::StrCat("a whole number from ", min, " to ", max));
    return min;
  }
  return static_cast<int32_t>(*number);
}

std::optional<double> JsonFields::Number(const std::string& name, double above, double max) {
  const json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  const double number = value->is_number() ? value->get<double>() : std::nan("");
  if (!(number > above && number <= max)) {
    RefuseValue(name, *value, absl::StrCat("a number above ", above, " and at most ", max));
    return std::nullopt;
  }
  return number;
}

bool JsonFields::Bool(const std::string& name, bool absent) {
  const json* value = Find(name);
  if (value == nullptr) return absent;
  if (!value->is_boolean()) {
    RefuseValue(name, *value, "true or false");
    return absent;
  }
  return value->get<bool>();
}

std::optional<std::string> JsonFields::String(const std::string& name) {
  const json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) {
    RefuseValue(name, *value, "a string");
    return std::nullopt;
  }
  return value->get<std::string>();
}

std::vector<float> JsonFields::Numbers(const std::string& name, size_t count, double max) {
  const json* value = Find(name);
  const std::string allowed =
      absl::StrCat("a list of ", count, " numbers above 0 and at most ", max);
  std::vector<float> numbers(count, 1.0f);
  if (value == nullptr) {
    Refuse(absl::StrCat(name, " is missing; expected is ", allowed));
    return numbers;
  }
  if (!value->is_array() || value->size() != count) {
    const std::string found = value->is_array() ? absl::StrCat("has ", value->size(), " entries")
                                                : absl::StrCat("is ", ShowJson(*value));
    Refuse(absl::StrCat(name, " ", found, "; expected is ", allowed,
                        ", one for each pair of rotary dimensions; download config.json again"));
    return numbers;
  }
  for (size_t i = 0; i < count; ++i) {
    const json& entry = (*value)[i];
    const double number = entry.is_number() ? entry.get<double>() : std::nan("");
    // The f32 value divides: a double that becomes a zero or a subnormal there is no factor.
    if (!(number >= std::numeric_limits<float>::min() && number <= max)) {
      RefuseValue(absl::StrCat(name, "[", i, "]"), entry,
                  absl::StrCat("a number above 0 and at most ", max));
      return numbers;
    }
    numbers[i] = static_cast<float>(number);
  }
  return numbers;
}

std::vector<int32_t> JsonFields::TokenIds(const std::string& name, int32_t vocab) {
  const json* value = Find(name);
  if (value == nullptr) return {};
  const json list = value->is_array() ? *value : json::array({*value});
  std::vector<int32_t> ids;
  for (const json& entry : list) {
    const std::optional<int64_t> id = WholeNumber(entry);
    if (!id.has_value() || *id < 0 || *id >= vocab) {
      RefuseValue(name, entry,
                  absl::StrCat("a token id from 0 to ", vocab - 1, " (vocab_size - 1)"));
      return {};
    }
    ids.push_back(static_cast<int32_t>(*id));
  }
  return ids;
}

void JsonFields::Refuse(const std::string& message) {
  if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(place_, ": ", message));
}

void JsonFields::RefuseValue(const std::string& name, const json& value,
                             const std::string& allowed) {
  Refuse(absl::StrCat(name, " is ", ShowJson(value), "; allowed is ", allowed,
                      "; the file is damaged or is not of a Phi-3 checkpoint; download it again"));
}

}  // namespace tuppence
