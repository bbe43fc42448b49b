// The load that serve_bench puts on a service: which requests, and how they arrive. Pure: the same
// options and seed make the same requests. Times and sockets are load_generator's.
#pragma once

#include <cstdint>
#include <random>
#include <string>

#include "absl/status/statusor.h"
#include "service/client.h"

namespace tuppence {

// A length in tokens: "300", or "100-500" for any in between with equal chance.
struct LengthRange {
  int32_t min = 0;
  int32_t max = 0;
};
absl::StatusOr<LengthRange> ParseLengthRange(const std::string& text);

struct LoadOptions {
  ClientOptions client;
  std::string http;  // IP:PORT of the HTTP door, to drive it in place of gRPC's; "": gRPC
  int channels = 4;  // connections that the calls share

  // Closed loop: so many callers, each asks again once it has its answer.
  int32_t concurrency = 8;
  int64_t requests = 200;
  int64_t warmup = 0;  // requests before those, which are not counted
  // Open loop, above 0: arrivals a second, at random (Poisson), whatever the answers do.
  double rate = 0;
  double seconds = 10;
  int32_t outstanding_max = 10000;  // arrivals beyond it are counted and not sent

  LengthRange prompt = {300, 300};
  LengthRange output = {60, 60};
  bool text = false;        // prompts of words in place of token ids
  bool stop_early = false;  // let the model end its answers; else each has the length asked for
  double temperature = 0;
  uint64_t seed = 1;
};

class RequestMaker {
 public:
  RequestMaker(const LoadOptions& options, int32_t vocab);

  // The next request. No two share a prompt but by chance.
  v1::GenerateRequest Next();
  // Seconds between two arrivals of an open loop.
  double NextGapSeconds();

 private:
  int32_t Draw(LengthRange range);

  const LoadOptions options_;
  const int32_t vocab_;
  std::mt19937_64 lengths_;
  std::mt19937_64 contents_;
  std::mt19937_64 arrivals_;
  uint64_t next_seed_;
};

}  // namespace tuppence
