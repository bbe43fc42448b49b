// JsonReader: values of a request's JSON with their types checked. What does not fit becomes a
// violation that says what was found and what is allowed, and the reading goes on, so that a caller
// hears of all at once. Used by openai_request and openai_messages.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/sampling_params.h"
#include "nlohmann/json.hpp"

namespace tuppence {

class JsonReader {
 public:
  explicit JsonReader(std::vector<FieldViolation>* violations) : violations_(violations) {}

  bool strict = false;  // unknown fields are violations

  // Each true where *out was set.
  bool Number(const nlohmann::json& value, const std::string& field, float* out);
  bool Int(const nlohmann::json& value, const std::string& field, int32_t* out);
  bool Bool(const nlohmann::json& value, const std::string& field, bool* out);
  bool String(const nlohmann::json& value, const std::string& field, std::string* out);
  bool Ints(const nlohmann::json& value, const std::string& field, std::vector<int32_t>* out);

  // "FIELD is VALUE; ALLOWED is allowed".
  void Wrong(const nlohmann::json& value, const std::string& field, const std::string& allowed);
  void Refuse(const std::string& field, const std::string& why);
  // No effect unless strict.
  void Unknown(const std::string& field);

 private:
  std::vector<FieldViolation>* violations_;
};

}  // namespace tuppence
