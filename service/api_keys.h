// ApiKeys: who may call, by the key it shows: the same for gRPC and HTTP. From a file (--keys) that
// holds no key, only its SHA-256, so that who reads the file cannot call; read again on SIGHUP:
//
//   {"keys": [{"id": "5f0c2a91", "sha256": "9b1d...", "tenant": "shop", "expires": "2027-06-30"}]}
//
// A key is tuppence-ID-SECRET, the secret 32 random bytes: nothing to guess, and so nothing to slow
// down by a costlier hash. Made by `tuppence key`, which shows it once. What the tenant is granted
// stands in the file of tenants. Made by serve, read by the calls. Safe on any thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "service/call_identity.h"

namespace tuppence {

class Clock;

using KeyHash = std::array<uint8_t, 32>;

struct ApiKey {
  KeyHash hash = {};
  std::string tenant;
  int64_t expires_utc_ns = 0;  // 0: never
};

class ApiKeys {
 public:
  // INVALID_ARGUMENT names the entry and what is allowed. `clock` outlives this.
  static absl::StatusOr<std::unique_ptr<ApiKeys>> Open(const std::string& path, const Clock* clock);
  // Reads the file again; on an error all stays as it was.
  absl::Status Reload();

  // Whose key an `authorization` field shows. UNAUTHENTICATED where it is missing, came twice, or
  // shows none that is known and valid; which of these it was makes no difference in time.
  absl::StatusOr<std::string> TenantOf(const MetadataValue& authorization) const;

 private:
  ApiKeys(std::string path, const Clock* clock) : path_(std::move(path)), clock_(clock) {}

  const std::string path_;
  const Clock* const clock_;
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, ApiKey> keys_ ABSL_GUARDED_BY(mutex_);  // by id
};

// Makes a key for the tenant and adds its hash to the file, which is made where there is none.
// Returns the key, which is nowhere else. expires: "" or a date, as 2027-06-30, on which it ends.
absl::StatusOr<std::string> MakeApiKey(const std::string& path, const std::string& tenant,
                                       const std::string& expires);
struct ListedKey {
  std::string id;
  std::string tenant;
  std::string expires;  // "": never
};
absl::StatusOr<std::vector<ListedKey>> ListApiKeys(const std::string& path);
// Takes a key out of the file. NOT_FOUND where it has none of this id.
absl::Status RemoveApiKey(const std::string& path, const std::string& id);

}  // namespace tuppence
