// The same load over the OpenAI-compatible door: each request a streamed /v1/completions on a
// connection that is used again. One thread holds all of them. Used by load_generator.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "bench/load_generator.h"
#include "bench/open_calls.h"
#include "tuppence/v1/tuppence.pb.h"

namespace tuppence {

class HttpLoad {
 public:
  // address: IP:PORT.
  static absl::StatusOr<std::unique_ptr<HttpLoad>> Make(const std::string& address);
  ~HttpLoad();  // waits for what is open

  // Times are those of its events; what it used and cost is its last event's.
  void Start(const v1::GenerateRequest& request, std::chrono::steady_clock::time_point due,
             LoadResult* result, OpenCalls* open);

 private:
  class Impl;
  explicit HttpLoad(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tuppence
