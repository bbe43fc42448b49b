// Names that a server's secret protects: the number that a tenant has inside the engine, and the
// keys of KV blocks. A block's key is chained: SHA-256 of its parent's key and its own token ids,
// the first parent being SHA-256 of (secret, tenant, rope regime). So equal keys mean equal tokens
// from position 0 on, in one tenant and regime; and nobody outside can make one up.
// Used by the engine, on its callers' threads. Any thread.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/batch.h"

namespace tuppence {

using PrefixKey = std::array<uint8_t, 32>;
using ServerSecret = std::array<uint8_t, 32>;

// From the system's source of randomness; each process has its own.
ServerSecret DrawServerSecret();

// Not negative; the same for the same name as long as the process lives.
int64_t TenantId(const ServerSecret& secret, const std::string& tenant);

// keys[i] names block i of the tokens; one for each full block.
std::vector<PrefixKey> PrefixKeys(const ServerSecret& secret, const std::string& tenant,
                                  RopeRegime regime, std::span<const int32_t> tokens,
                                  int32_t block_tokens);

}  // namespace tuppence
