// A stand-in for NVIDIA's management library: one device, whose counter moves as one that takes 70
// W.
#include <chrono>
#include <cstring>

extern "C" {

int nvmlInit_v2() { return 0; }
int nvmlShutdown() { return 0; }

int nvmlDeviceGetHandleByPciBusId_v2(const char* pci_bus_id, void** device) {
  static int one;
  constexpr int kNotFound = 6;
  if (std::strcmp(pci_bus_id, "emulated") != 0) return kNotFound;
  *device = &one;
  return 0;
}

int nvmlDeviceGetTotalEnergyConsumption(void*, unsigned long long* millijoules) {
  const std::chrono::duration<double> now = std::chrono::steady_clock::now().time_since_epoch();
  *millijoules = static_cast<unsigned long long>(now.count() * 70e3);
  return 0;
}

}  // extern "C"
