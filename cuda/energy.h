// EnergyMeter: a GPU's electrical power, by the energy counter of NVIDIA's management library,
// which is loaded at run time. Where there is none, or it cannot read this device, nothing is
// shown.
//
// Reading the counter takes milliseconds (2.4 on an H200), and it moves ten times a second: a
// thread of its own reads it, and a step's energy is the power of the last half second times its
// time.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

namespace tuppence {

class EnergyMeter {
 public:
  // `library`: "libnvidia-ml.so.1". `pci_bus_id`: which device, "00000000:3B:00.0". nullptr where
  // it cannot be read.
  static std::unique_ptr<EnergyMeter> Open(const std::string& library,
                                           const std::string& pci_bus_id);
  ~EnergyMeter();
  EnergyMeter(const EnergyMeter&) = delete;
  EnergyMeter& operator=(const EnergyMeter&) = delete;

  // Mean of the last half second. Nothing in the first tenth, and after a reading that failed.
  // Thread: any.
  std::optional<double> watts() const;

 private:
  struct Library;
  explicit EnergyMeter(std::unique_ptr<Library> library);
  void Watch();

  const std::unique_ptr<Library> library_;
  std::atomic<double> watts_{-1};  // below 0: not known
  std::mutex mutex_;
  std::condition_variable stopped_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace tuppence
