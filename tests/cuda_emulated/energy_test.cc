// The energy counter, through a library that is loaded as NVIDIA's is.
#include "cuda/energy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "cuda/cuda_backend.h"

namespace tuppence {
namespace {

// Waits for the second reading, at most ten seconds.
std::optional<double> FirstWatts(const Backend& backend) {
  for (int i = 0; i < 1000 && !backend.watts().has_value(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return backend.watts();
}

TEST(EnergyTest, PowerIsTheCountersRise) {
  const auto backend = cuda_emulated::MakeCudaBackend({.energy_library = FAKE_ENERGY_LIBRARY});
  ASSERT_TRUE(backend.ok()) << backend.status();
  const std::optional<double> watts = FirstWatts(**backend);
  ASSERT_TRUE(watts.has_value());
  // The counter's steps of a millijoule and the time between its clock and ours are all that is
  // off; a scheduler that holds the thread up between the two adds to it.
  EXPECT_NEAR(*watts, 70, 7);
}

TEST(EnergyTest, NothingIsShownWhereNothingCanBeRead) {
  EXPECT_EQ(EnergyMeter::Open("libnot-there.so", "emulated"), nullptr);
  EXPECT_EQ(EnergyMeter::Open("libm.so.6", "emulated"), nullptr);  // has none of its functions
  EXPECT_EQ(EnergyMeter::Open(FAKE_ENERGY_LIBRARY, "another"), nullptr);
  const auto backend = cuda_emulated::MakeCudaBackend({.energy_library = "libnot-there.so"});
  ASSERT_TRUE(backend.ok()) << backend.status();
  EXPECT_EQ((*backend)->watts(), std::nullopt);
}

}  // namespace
}  // namespace tuppence
