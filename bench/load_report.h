// What serve_bench prints of a load: a table for people, JSON for comparing. Pure.
#pragma once

#include <string>

#include "bench/load.h"
#include "bench/load_generator.h"

namespace tuppence {

std::string LoadTable(const TrafficOptions& options, const v1::GetModelResponse& model,
                      LoadResult* result);
std::string LoadJson(const TrafficOptions& options, const v1::GetModelResponse& model,
                     LoadResult* result);

}  // namespace tuppence
