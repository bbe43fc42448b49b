// The version of this build, from CMake's project version. Shown by `tuppence version`, GetModel
// and /metrics.
#pragma once

#ifndef TUPPENCE_VERSION
#define TUPPENCE_VERSION "0.0.0"
#endif

namespace tuppence {
inline constexpr char kVersion[] = TUPPENCE_VERSION;
}
