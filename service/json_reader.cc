#include "service/json_reader.h"

#include <limits>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "model/strict_json.h"

namespace tuppence {
namespace {

using Json = nlohmann::json;

constexpr size_t kViolationsMax = 64;  // of a list of a million wrong ids a few are enough

bool FitsInt32(const Json& value) {
  if (value.is_number_unsigned()) {
    return value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int32_t>::max());
  }
  if (!value.is_number_integer()) return false;
  return value.get<int64_t>() >= std::numeric_limits<int32_t>::min();
}

}  // namespace

bool JsonReader::Number(const Json& value, const std::string& field, float* out) {
  if (!value.is_number()) {
    Wrong(value, field, "a number");
    return false;
  }
  *out = value.get<float>();
  return true;
}

bool JsonReader::Int(const Json& value, const std::string& field, int32_t* out) {
  if (!FitsInt32(value)) {
    Wrong(value, field, "a whole number of 32 bits");
    return false;
  }
  *out = value.get<int32_t>();
  return true;
}

bool JsonReader::Bool(const Json& value, const std::string& field, bool* out) {
  if (!value.is_boolean()) {
    Wrong(value, field, "true or false");
    return false;
  }
  *out = value.get<bool>();
  return true;
}

bool JsonReader::String(const Json& value, const std::string& field, std::string* out) {
  if (!value.is_string()) {
    Wrong(value, field, "a text");
    return false;
  }
  *out = value.get<std::string>();
  return true;
}

bool JsonReader::Ints(const Json& value, const std::string& field, std::vector<int32_t>* out) {
  if (!value.is_array()) {
    Wrong(value, field, "a list of token ids");
    return false;
  }
  out->reserve(value.size());
  for (size_t i = 0; i < value.size(); ++i) {
    int32_t number = 0;
    if (!Int(value[i], absl::StrCat(field, "[", i, "]"), &number)) return false;
    out->push_back(number);
  }
  return true;
}

void JsonReader::Wrong(const Json& value, const std::string& field, const std::string& allowed) {
  Refuse(field, absl::StrCat("is ", ShowJson(value), "; ", allowed, " is allowed"));
}

void JsonReader::Refuse(const std::string& field, const std::string& why) {
  if (violations_->size() < kViolationsMax) violations_->push_back({field, why});
}

void JsonReader::Unknown(const std::string& field) {
  if (!strict) return;
  Refuse(absl::Utf8SafeCEscape(field.substr(0, 64)),
         "is not known to this version of the service, which refuses what it does not know "
         "(--strict); leave it out");
}

}  // namespace tuppence
