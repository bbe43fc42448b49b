// What can keep `tuppence serve` from starting, found without serving: for --check, and where a
// mistake should show before the weights are read. Nothing is left behind. Called by serve.
#pragma once

#include "absl/status/status.h"
#include "service/options.h"

namespace tuppence {

absl::Status CheckTlsFiles(const ServeOptions& options);
// Each port is listened on and let go. One in use is told and no failure: a service with these
// settings may be running.
absl::Status TryDoors(const ServeOptions& options);
// The usage store, the folder for files and the trace. What is there is read, and told where
// another process has it; where nothing is, it only must be possible to make it.
absl::Status TryStores(const ServeOptions& options);

}  // namespace tuppence
