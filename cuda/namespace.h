// TUPPENCE_DEVICE: the namespace of this compilation of cuda/, so that a program can hold both:
// `cuda` by nvcc, `cuda_emulated` by the C++ compiler with TUPPENCE_EMULATED.
#pragma once

#if defined(TUPPENCE_EMULATED)
#define TUPPENCE_DEVICE cuda_emulated
#else
#define TUPPENCE_DEVICE cuda
#endif

namespace tuppence::TUPPENCE_DEVICE {

// As the backend is called, and the start of its arithmetic id.
#if defined(TUPPENCE_EMULATED)
constexpr char kBackendName[] = "emulated";
#else
constexpr char kBackendName[] = "cuda";
#endif

}  // namespace tuppence::TUPPENCE_DEVICE
