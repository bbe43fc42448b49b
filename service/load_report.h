// load_report: a request's cost in the words of ORCA (xds.data.orca.v3): the trailing metadata that
// Envoy, gRPC's weighted round robin and gateways read from a call. Any thread.
#pragma once

#include <string>

#include "scheduler/request.h"

namespace tuppence {

inline constexpr char kLoadReportKey[] = "endpoint-load-metrics-bin";

// A serialised OrcaLoadReport whose request_cost holds "machine_seconds" and, where a rate is
// known, "usd".
std::string SerialiseLoadReport(const Cost& cost);

}  // namespace tuppence
