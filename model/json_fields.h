// Fields of a JSON object with their types and ranges checked: the first problem is kept and the
// reading goes on with harmless values, so that a reader of many fields needs one check at its end.
// Used by model/config.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace tuppence {

class JsonFields {
 public:
  // `place` opens every message: "config.json" or "config.json: rope_scaling".
  JsonFields(const nlohmann::json& object, std::string place)
      : object_(object), place_(std::move(place)) {}

  const absl::Status& status() const { return status_; }

  // The value, or nullptr where the field is absent or null.
  const nlohmann::json* Find(const std::string& name) const;

  // A whole number in [min, max]. Absent: `absent` if there is one, otherwise a problem.
  int32_t Int(const std::string& name, int32_t min, int32_t max,
              std::optional<int32_t> absent = std::nullopt);
  // A finite number in (above, max].
  std::optional<double> Number(const std::string& name, double above, double max);
  bool Bool(const std::string& name, bool absent);
  std::optional<std::string> String(const std::string& name);
  // Numbers in (0, max], exactly `count`.
  std::vector<float> Numbers(const std::string& name, size_t count, double max);
  // Token ids below `vocab`: one number, a list of them, or nothing.
  std::vector<int32_t> TokenIds(const std::string& name, int32_t vocab);

  // Keeps the first problem: "PLACE: MESSAGE".
  void Refuse(const std::string& message);
  // Keeps a problem that was found in a part of this object and names its place itself.
  void Adopt(const absl::Status& status) { status_.Update(status); }

 private:
  void RefuseValue(const std::string& name, const nlohmann::json& value,
                   const std::string& allowed);

  const nlohmann::json& object_;
  std::string place_;
  absl::Status status_;
};

}  // namespace tuppence
