// A golden file of tests/golden/logprobs and the checkpoint that it speaks of, made again from the
// rule in make_checkpoints.py.
#pragma once

#include <string>
#include <vector>

#include "model/config.h"
#include "tests/support/tiny_checkpoint.h"

namespace tuppence {

struct GoldenRow {
  int32_t length = 0;  // tokens that the reference saw
  std::vector<int32_t> ids;
  std::vector<double> logprobs;
  double logit_rms = 0;
};

struct GoldenCase {
  std::vector<int32_t> prompt;
  std::vector<GoldenRow> rows;
};

struct Golden {
  std::string name;
  nlohmann::json config_json;
  Config config;
  std::string weights;  // "stored", "int8" or "int4"
  std::vector<GoldenCase> cases;
};

std::vector<std::string> GoldenNames();
Golden ReadGolden(const std::string& name);
void WriteGoldenCheckpoint(const Golden& golden, const std::string& folder);

}  // namespace tuppence
