#include "scheduler/prefix_key.h"

#include <openssl/evp.h>
#include <openssl/rand.h>

#include <cstring>
#include <memory>

#include "model/check.h"

namespace tuppence {
namespace {

// What a hash is for, so that no two uses can give the same bytes.
enum class Use : uint8_t { kTenant, kRoot, kBlock };

// One digest of several pieces. A context is dear to make and serves again, one for each thread.
class Digest {
 public:
  explicit Digest(Use use) {
    static EVP_MD* const sha256 = EVP_MD_fetch(nullptr, "SHA256", nullptr);
    CHECK(sha256 != nullptr);
    CHECK_EQ(EVP_DigestInit_ex2(context(), sha256, nullptr), 1);
    Add(&use, sizeof(use));
  }
  void Add(const void* bytes, size_t size) {
    CHECK_EQ(EVP_DigestUpdate(context(), bytes, size), 1);
  }
  PrefixKey Finish() {
    PrefixKey key;
    CHECK_EQ(EVP_DigestFinal_ex(context(), key.data(), nullptr), 1);
    return key;
  }

 private:
  static EVP_MD_CTX* context() {
    thread_local const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(
        EVP_MD_CTX_new(), &EVP_MD_CTX_free);
    return context.get();
  }
};

}  // namespace

ServerSecret DrawServerSecret() {
  ServerSecret secret;
  CHECK_EQ(RAND_bytes(secret.data(), static_cast<int>(secret.size())), 1);
  return secret;
}

int64_t TenantId(const ServerSecret& secret, const std::string& tenant) {
  Digest digest(Use::kTenant);
  digest.Add(secret.data(), secret.size());
  digest.Add(tenant.data(), tenant.size());
  const PrefixKey key = digest.Finish();
  uint64_t id = 0;
  std::memcpy(&id, key.data(), sizeof(id));
  return static_cast<int64_t>(id >> 1);
}

std::vector<PrefixKey> PrefixKeys(const ServerSecret& secret, const std::string& tenant,
                                  RopeRegime regime, std::span<const int32_t> tokens,
                                  int32_t block_tokens) {
  CHECK_GT(block_tokens, 0);
  // The name comes last: nothing after it could be taken for a part of it.
  Digest root(Use::kRoot);
  root.Add(secret.data(), secret.size());
  root.Add(&regime, sizeof(regime));
  root.Add(tenant.data(), tenant.size());
  PrefixKey parent = root.Finish();
  std::vector<PrefixKey> keys(tokens.size() / block_tokens);
  for (PrefixKey& key : keys) {
    Digest digest(Use::kBlock);
    digest.Add(parent.data(), parent.size());
    digest.Add(tokens.data(), block_tokens * sizeof(int32_t));
    tokens = tokens.subspan(block_tokens);
    parent = key = digest.Finish();
  }
  return keys;
}

}  // namespace tuppence
