#include "service/load_report.h"

#include "xds/data/orca/v3/orca_load_report.pb.h"

namespace tuppence {

std::string SerialiseLoadReport(const Cost& cost) {
  xds::data::orca::v3::OrcaLoadReport report;
  auto& request_cost = *report.mutable_request_cost();
  request_cost["machine_seconds"] = static_cast<double>(cost.machine_ns) * 1e-9;
  if (cost.has_rate) request_cost["usd"] = static_cast<double>(cost.cost_nanousd) * 1e-9;
  return report.SerializeAsString();
}

}  // namespace tuppence
