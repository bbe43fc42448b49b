// The load that serve_bench puts on a service: which requests, and how they arrive. Pure: the same
// options and seed make the same requests, and `tuppence plan` draws the same lengths and times
// from them (service/planner/traffic). Times and sockets are load_generator's.
#pragma once

#include <cstdint>
#include <random>
#include <string>

#include "service/client.h"
#include "service/planner/traffic.h"

namespace tuppence {

struct TrafficOptions {
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
  RequestMaker(const TrafficOptions& options, int32_t vocab);

  // The next request. No two share a prompt but by chance.
  v1::GenerateRequest Next();
  // Seconds between two arrivals of an open loop.
  double NextGapSeconds() { return draw_.GapSeconds(); }

 private:
  const TrafficOptions options_;
  const int32_t vocab_;
  LoadDraw draw_;
  std::mt19937_64 contents_;
  uint64_t next_seed_;
};

}  // namespace tuppence
