// Sha256: of bytes that come in pieces. Used for a checkpoint's SHA256SUMS, and for what is asked
// under an idempotency key, so that the same request is known again.
#pragma once

#include <memory>
#include <string>
#include <string_view>

struct evp_md_ctx_st;

namespace tuppence {

class Sha256 {
 public:
  Sha256();
  ~Sha256();

  void Add(std::string_view bytes);
  // In hexadecimal digits. Once, after everything.
  std::string Finish();

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const;
  };
  const std::unique_ptr<evp_md_ctx_st, Free> context_;
};

}  // namespace tuppence
