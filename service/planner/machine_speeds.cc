#include "service/planner/machine_speeds.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/check.h"
#include "model/strict_json.h"
#include "service/deploy_tables.h"
#include "service/money.h"
#include "service/planner/flag_file.h"
#include "service/rate_cards.h"

namespace tuppence {
namespace {

using Json = nlohmann::json;

constexpr int kMicroDecimals = 6;

absl::Status Wrong(const std::string& what) { return absl::InvalidArgumentError(what); }

absl::Status ReadText(const Json& json, const char* key, std::string* text) {
  if (!json.contains(key) || !json[key].is_string() || json[key].get<std::string>().empty()) {
    return Wrong(absl::StrCat("needs \"", key, "\", a text"));
  }
  *text = json[key].get<std::string>();
  return absl::OkStatus();
}

absl::Status ReadNumber(const Json& json, const char* key, double most, double* number) {
  if (!json.contains(key) || !json[key].is_number()) {
    return Wrong(absl::StrCat("needs \"", key, "\", a number"));
  }
  *number = json[key].get<double>();
  if (*number > 0 && *number <= most) return absl::OkStatus();
  return Wrong(absl::StrCat(key, " is ", *number, "; it needs to be above 0 and at most ", most));
}

// 0.74, or [0.65, 0.8] where it is assumed.
absl::Status ReadFraction(const Json& json, const std::string& key, Fraction* fraction) {
  const bool range =
      json.is_array() && json.size() == 2 && json[0].is_number() && json[1].is_number();
  if (!range && !json.is_number()) {
    return Wrong(absl::StrCat(key, " needs a number, or a range as [0.65, 0.8]"));
  }
  fraction->low = (range ? json[0] : json).get<double>();
  fraction->high = (range ? json[1] : json).get<double>();
  if (fraction->low > 0 && fraction->low <= fraction->high && fraction->high <= 1) {
    return absl::OkStatus();
  }
  return Wrong(absl::StrCat(key, " is ", ShowJson(json),
                            "; parts of a peak are above 0 and at most 1, the lower one first"));
}

absl::Status ReadFractions(const Json& json, const char* key,
                           std::map<std::string, Fraction>* fractions) {
  if (!json.contains(key))
    return Wrong(absl::StrCat("needs \"fractions\": {\"", key, "\": {...}}"));
  absl::Status status = CheckKeys(json[key], key, {"16bit", "int8", "int4", "f32"});
  for (const auto& [type, fraction] : json[key].items()) {
    if (!status.ok()) break;
    status = ReadFraction(fraction, absl::StrCat(key, " of ", type), &(*fractions)[type]);
  }
  return status;
}

absl::Status ReadAllFractions(const Json& json, MachineSpeed* machine) {
  if (!json.contains("fractions")) return Wrong("needs \"fractions\"");
  const Json& fractions = json["fractions"];
  absl::Status status = CheckKeys(
      fractions, "fractions", {"kind", "source", "weights_read", "matmul", "kv_read", "attention"});
  std::string kind;
  status.Update(ReadText(fractions, "kind", &kind));
  if (status.ok() && kind != "measured" && kind != "assumed") {
    return Wrong(absl::StrCat("kind is \"", kind, "\"; there are measured and assumed"));
  }
  machine->measured = kind == "measured";
  status.Update(ReadText(fractions, "source", &machine->fractions_source));
  status.Update(ReadFractions(fractions, "weights_read", &machine->weights_read));
  status.Update(ReadFractions(fractions, "matmul", &machine->matmul));
  status.Update(ReadFractions(fractions, "kv_read", &machine->kv_read));
  if (!status.ok()) return status;
  if (!fractions.contains("attention")) return Wrong("needs \"attention\" among the fractions");
  return ReadFraction(fractions["attention"], "attention", &machine->attention);
}

// The row's own price, or that of the table of public prices; none where neither has one.
absl::Status ReadPrice(const Json& json, MachineSpeed* machine) {
  if (!json.contains("usd_per_hour")) {
    const absl::StatusOr<RateCard> known = MachineCard(machine->name);
    if (known.ok()) machine->price = *known;
    return absl::OkStatus();
  }
  std::string text;
  std::string date;
  absl::Status status = ReadText(json, "usd_per_hour", &text);
  status.Update(ReadText(json, "price_date", &date));
  if (!status.ok()) return status;
  const absl::StatusOr<int64_t> micro = ParseDecimal(text, kMicroDecimals);
  if (!micro.ok()) return Wrong(absl::StrCat("usd_per_hour: ", micro.status().message()));
  if (*micro < 0) return Wrong("usd_per_hour is negative");
  machine->price = {.id = absl::StrCat(machine->name, "-", date), .micro_usd_per_hour = *micro};
  return absl::OkStatus();
}

absl::StatusOr<MachineSpeed> FromJson(const Json& json) {
  MachineSpeed machine;
  absl::Status status = CheckKeys(
      json, "a machine",
      {"machine", "what", "kind", "bf16", "memory_gib", "bandwidth_gb_per_s", "arithmetic_tflops",
       "launch_us", "source", "fractions", "usd_per_hour", "price_date"});
  if (!status.ok()) return status;
  status = ReadText(json, "machine", &machine.name);
  if (!status.ok()) return status;
  std::string kind;
  status.Update(ReadText(json, "what", &machine.what));
  status.Update(ReadText(json, "kind", &kind));
  status.Update(ReadText(json, "source", &machine.source));
  status.Update(ReadNumber(json, "memory_gib", 1e5, &machine.memory_gib));
  status.Update(ReadNumber(json, "bandwidth_gb_per_s", 1e6, &machine.bandwidth_gb_per_s));
  status.Update(ReadNumber(json, "arithmetic_tflops", 1e6, &machine.arithmetic_tflops));
  status.Update(ReadNumber(json, "launch_us", 1e7, &machine.launch_us));
  if (status.ok() && kind != "gpu" && kind != "cpu") {
    status = Wrong(absl::StrCat("kind is \"", kind, "\"; there are gpu and cpu"));
  }
  machine.gpu = kind == "gpu";
  machine.bf16 = json.value("bf16", true);
  status.Update(ReadAllFractions(json, &machine));
  status.Update(ReadPrice(json, &machine));
  if (status.ok()) return machine;
  return Wrong(absl::StrCat("machine \"", machine.name, "\": ", status.message()));
}

// Keys and values of 16 bits are one thing, whichever bits they are.
std::string KeyOf(const std::string& type) {
  return type == "bf16" || type == "f16" ? "16bit" : type;
}

double PartOf(const Fraction& fraction, Assume assume) {
  switch (assume) {
    case Assume::kLow:
      return fraction.low;
    case Assume::kMiddle:
      return (fraction.low + fraction.high) / 2;
    case Assume::kHigh:
      return fraction.high;
  }
  return fraction.low;
}

absl::StatusOr<double> PartOf(const std::map<std::string, Fraction>& fractions,
                              const std::string& type, Assume assume) {
  const auto found = fractions.find(KeyOf(type));
  if (found != fractions.end()) return PartOf(found->second, assume);
  return absl::NotFoundError(absl::StrCat(
      "how fast ", type, " is there has been neither measured nor published; the table has ",
      absl::StrJoin(fractions, ", ",
                    [](std::string* out, const auto& entry) { out->append(entry.first); })));
}

}  // namespace

absl::StatusOr<std::vector<MachineSpeed>> ParseMachineSpeeds(const std::string& text) {
  const absl::StatusOr<Json> json = ParseStrictJson(text);
  if (!json.ok()) return json.status();
  absl::Status status = CheckKeys(*json, "the table", {"about", "machines"});
  if (!status.ok()) return status;
  if (!json->contains("machines") || !(*json)["machines"].is_array() ||
      (*json)["machines"].empty()) {
    return Wrong("needs \"machines\", a list with at least one");
  }
  std::vector<MachineSpeed> machines;
  for (const Json& row : (*json)["machines"]) {
    absl::StatusOr<MachineSpeed> machine = FromJson(row);
    if (!machine.ok()) return machine.status();
    machines.push_back(*std::move(machine));
  }
  return machines;
}

absl::StatusOr<std::vector<MachineSpeed>> ReadMachineSpeeds(const std::string& path) {
  return ReadFlagFile("--machines", path, ParseMachineSpeeds);
}

std::vector<MachineSpeed> KnownMachineSpeeds() {
  absl::StatusOr<std::vector<MachineSpeed>> machines = ParseMachineSpeeds(kMachineSpeedsJson);
  CHECK(machines.ok());
  return *std::move(machines);
}

absl::StatusOr<StepCostCoefficients> StepCostsOn(const MachineSpeed& machine,
                                                 const ModelSizes& sizes,
                                                 const std::string& weights, const std::string& kv,
                                                 Assume assume) {
  const absl::StatusOr<double> weights_read = PartOf(machine.weights_read, weights, assume);
  if (!weights_read.ok()) return weights_read.status();
  const absl::StatusOr<double> matmul = PartOf(machine.matmul, weights, assume);
  if (!matmul.ok()) return matmul.status();
  const absl::StatusOr<double> kv_read = PartOf(machine.kv_read, kv, assume);
  if (!kv_read.ok()) return kv_read.status();
  const double bytes_per_ns = machine.bandwidth_gb_per_s;
  const double flops_per_ns = 1e3 * machine.arithmetic_tflops;
  StepCostCoefficients costs;
  costs.launch_ns = 1e3 * machine.launch_us;
  costs.weights_ns = static_cast<double>(sizes.weight_bytes) / (bytes_per_ns * *weights_read);
  costs.token_ns = 2 * static_cast<double>(sizes.parameters) / (flops_per_ns * *matmul);
  costs.attention_ns = 4 * static_cast<double>(sizes.attention_cols) /
                       (flops_per_ns * PartOf(machine.attention, assume));
  costs.kv_read_ns = static_cast<double>(sizes.kv_bytes_per_token) / (bytes_per_ns * *kv_read);
  return costs;
}

}  // namespace tuppence
