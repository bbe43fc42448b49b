// TenantTotals: what each tenant used, for labels that stay few whatever names callers bring: the
// tenants who spend most have one of their own, the rest share "other". Sums over all labels are
// exact at every moment, and no label's ever falls. Guards nothing: its owner does.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace tuppence {

inline constexpr char kOtherTenants[] = "other";

struct TenantSums {
  int64_t prefill_ns = 0;
  int64_t decode_ns = 0;
  int64_t prefill_nanousd = 0;
  int64_t decode_nanousd = 0;
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  // of prompt_tokens
  int64_t completion_tokens = 0;

  int64_t machine_ns() const { return prefill_ns + decode_ns; }
  void Add(const TenantSums& other);
};

class TenantTotals {
 public:
  // labels_max: tenants with a label of their own. watched_max: of the others, so many are watched
  // in case they outgrow one of those.
  TenantTotals(size_t labels_max, size_t watched_max);

  void Add(const std::string& tenant, const TenantSums& sums);

  // Label and sums; "other" is last and always there.
  std::vector<std::pair<std::string, TenantSums>> Labelled() const;

 private:
  // spent_ns: machine time in all, that without a label included; it ranks the tenants.
  struct Label {
    TenantSums sums;
    int64_t spent_ns = 0;
  };

  void MakeRoomFor(const std::string& tenant);

  const size_t labels_max_;
  const size_t watched_max_;
  absl::flat_hash_map<std::string, Label> labelled_;
  TenantSums other_;
  // Machine time that tenants without a label have spent in all.
  absl::flat_hash_map<std::string, int64_t> watched_ns_;
};

}  // namespace tuppence
