// SHA256SUMS, the file that `sha256sum *` writes: where a checkpoint's folder holds one, every file
// that it lists is read and compared before anything else of the folder is. The only way to see
// that a file was altered without becoming invalid. Used by OpenModel.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace tuppence {

// How many files of `folder` were compared; 0 where it has no SHA256SUMS. DATA_LOSS, naming the
// file and both digests, if one differs; INVALID_ARGUMENT for a line that is not "DIGEST  NAME"
// with a name in this folder.
absl::StatusOr<int> CheckSha256Sums(const std::string& folder);

}  // namespace tuppence
