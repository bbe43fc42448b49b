#include "cuda/energy.h"

#include <dlfcn.h>

#include <chrono>
#include <deque>

namespace tuppence {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kInterval(100);
constexpr std::chrono::milliseconds kWindow(500);

}  // namespace

// NVML's functions that we call, by their C signatures; 0 is success.
struct EnergyMeter::Library {
  void* handle = nullptr;
  void* device = nullptr;
  int (*shutdown)() = nullptr;
  int (*energy)(void* device, unsigned long long* millijoules) = nullptr;

  ~Library() {
    if (shutdown != nullptr) shutdown();
    if (handle != nullptr) dlclose(handle);
  }

  template <typename Function>
  bool Find(const char* name, Function* function) {
    *function = reinterpret_cast<Function>(dlsym(handle, name));
    return *function != nullptr;
  }

  bool Load(const std::string& library, const std::string& pci_bus_id) {
    int (*init)() = nullptr;
    int (*find_device)(const char* pci_bus_id, void** device) = nullptr;
    int (*stop)() = nullptr;
    handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr || !Find("nvmlInit_v2", &init) || !Find("nvmlShutdown", &stop) ||
        !Find("nvmlDeviceGetHandleByPciBusId_v2", &find_device) ||
        !Find("nvmlDeviceGetTotalEnergyConsumption", &energy) || init() != 0) {
      return false;
    }
    shutdown = stop;
    return find_device(pci_bus_id.c_str(), &device) == 0 && Joules().has_value();
  }

  std::optional<double> Joules() const {
    unsigned long long millijoules = 0;
    if (energy(device, &millijoules) != 0) return std::nullopt;
    return static_cast<double>(millijoules) * 1e-3;
  }
};

std::unique_ptr<EnergyMeter> EnergyMeter::Open(const std::string& library,
                                               const std::string& pci_bus_id) {
  auto loaded = std::make_unique<Library>();
  if (!loaded->Load(library, pci_bus_id)) return nullptr;
  return std::unique_ptr<EnergyMeter>(new EnergyMeter(std::move(loaded)));
}

EnergyMeter::EnergyMeter(std::unique_ptr<Library> library)
    : library_(std::move(library)), thread_([this] { Watch(); }) {}

EnergyMeter::~EnergyMeter() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  stopped_.notify_all();
  thread_.join();
}

std::optional<double> EnergyMeter::watts() const {
  const double watts = watts_.load(std::memory_order_relaxed);
  return watts < 0 ? std::nullopt : std::optional<double>(watts);
}

void EnergyMeter::Watch() {
  struct Reading {
    Clock::time_point time;
    double joules;
  };
  std::deque<Reading> readings;
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stop_) {
    lock.unlock();
    const std::optional<double> joules = library_->Joules();
    if (joules.has_value()) {
      readings.push_back({Clock::now(), *joules});
    } else {
      readings.clear();
    }
    while (readings.size() > 2 && readings.back().time - readings.front().time > kWindow) {
      readings.pop_front();
    }
    double watts = -1;
    if (readings.size() >= 2) {
      const std::chrono::duration<double> passed = readings.back().time - readings.front().time;
      watts = (readings.back().joules - readings.front().joules) / passed.count();
    }
    watts_.store(watts, std::memory_order_relaxed);
    lock.lock();
    stopped_.wait_for(lock, kInterval, [this] { return stop_; });
  }
}

}  // namespace tuppence
