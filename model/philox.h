// Philox4x32-10: a random number as a pure function of a key and a counter, so that a draw depends
// on (seed, choice, output index, token id) and on nothing else.
// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11.
#pragma once

#include <array>
#include <cstdint>

namespace tuppence {

// A draw's key: the request's seed and the index of the choice among its n.
struct PhiloxKey {
  uint64_t seed = 0;
  uint32_t choice = 0;
};

// Ten rounds over counter with a 64-bit key.
constexpr std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, uint64_t key) {
  uint32_t key0 = static_cast<uint32_t>(key);
  uint32_t key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {
        static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(product1),
        static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(product0)};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// A uniform number in (0, 1) for one token of one draw: 23 bits, centred in their interval, so that
// neither 0 nor 1 occurs and the value is exact in f32.
constexpr float PhiloxUniform(PhiloxKey key, uint32_t output_index, uint32_t token_id) {
  const std::array<uint32_t, 4> bits =
      Philox4x32({output_index, token_id, key.choice, 0}, key.seed);
  return (static_cast<float>(bits[0] >> 9) + 0.5f) * 0x1p-23f;
}

}  // namespace tuppence
