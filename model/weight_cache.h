// The weight cache: a model's matrices in the layout that one backend's kernels read, in one file
// beside the checkpoint, so that a second start reads them instead of converting or quantising the
// checkpoint again. Made and read by LoadWeights; never needed.
//
// A file is used only where its key is the same: format version, backend layout, weight format, and
// of every checkpoint file its name, bytes and time of change. Each 8 MiB carry an XXH3 sum, which
// is compared as they are read. Like the checkpoint it must be written by those only who may decide
// what the model says.
//
//   "TUPPENCE WEIGHTS"  u64 bytes of the header  u64 XXH3 of the header  header (JSON)
//   matrices, each from a multiple of 4,096; numbers are little-endian
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/backend.h"
#include "model/file.h"
#include "model/weight_source.h"

namespace tuppence {

struct CachedMatrix {
  std::string name;  // of its tensor and type
  std::span<const std::byte> bytes;
};

// What a cache of these weights must say of itself. NOT_FOUND for a source that is no files.
absl::StatusOr<std::string> WeightCacheKey(const WeightSource& source, const WeightFormat& format,
                                           const std::string& layout_id);

// Writes a temporary file, brings it to the disk and gives it its name: a reader finds the whole or
// nothing. What was there before goes.
absl::Status WriteWeightCache(const std::string& path, const std::string& key,
                              const std::vector<CachedMatrix>& matrices);

class WeightCache {
 public:
  // NOT_FOUND where there is no file, FAILED_PRECONDITION where its key is another, DATA_LOSS where
  // it is damaged.
  static absl::StatusOr<WeightCache> Open(const std::string& path, const std::string& key);

  // Fills `out`. DATA_LOSS where the matrix is missing, of another size or damaged. Reads with
  // threads of its own.
  absl::Status Read(const std::string& name, std::span<std::byte> out) const;

  int64_t bytes() const { return file_.bytes(); }

 private:
  struct Place {
    int64_t offset = 0;
    int64_t bytes = 0;
    std::vector<uint64_t> sums;  // of each piece
  };

  explicit WeightCache(File file) : file_(std::move(file)) {}
  absl::Status ReadHeader(const std::string& key);

  File file_;
  std::unordered_map<std::string, Place> places_;
};

}  // namespace tuppence
