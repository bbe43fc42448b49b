// The formats that weights are kept in, by their names on the command line. Used by model/weights,
// the options and whoever tells what is served.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "model/backend.h"

namespace tuppence {

// "bf16", "f16", "f32", "int8" or "int4", with the groups that go with it (int8: 128, int4: 32).
absl::StatusOr<WeightFormat> ParseWeightFormat(const std::string& name);
const char* NameOf(WeightType type);
// The type and what its values share a scale with: "bf16", "int4g32".
std::string IdOf(const WeightFormat& format);

// The head's where the layers have this one: int8 where they are int4.
WeightFormat HeadFormat(const WeightFormat& layers);

}  // namespace tuppence
