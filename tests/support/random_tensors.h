// Random numbers for tests: the same in every run, and printed with a failure so that it replays
// (set TUPPENCE_TEST_SEED to try another).
#pragma once

#include <cstdint>
#include <cstdlib>
#include <random>
#include <vector>

namespace tuppence::testing {

inline uint64_t TestSeed() {
  const char* const text = std::getenv("TUPPENCE_TEST_SEED");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 20261123;
}

class RandomTensors {
 public:
  explicit RandomTensors(uint64_t stream = 0) : generator_(TestSeed() * 1000003 + stream) {}

  std::vector<float> Normal(int64_t count, float deviation = 1) {
    std::normal_distribution<float> distribution(0, deviation);
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = distribution(generator_);
    return values;
  }

  // In [low, high].
  int64_t Integer(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(generator_);
  }
  uint32_t Bits() { return static_cast<uint32_t>(generator_()); }

 private:
  std::mt19937_64 generator_;
};

}  // namespace tuppence::testing
