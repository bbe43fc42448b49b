// tls: reads certificate files and checks them before gRPC sees them, which would otherwise accept
// anything and fail each handshake without a word. Used by serve at start-up.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace tuppence {

struct TlsFiles {
  std::string certificate;  // PEM: the server's, then any intermediates
  std::string key;          // PEM, without a passphrase
  std::string client_ca;    // PEM; "": clients need no certificate
};

// The content of the files.
struct TlsMaterial {
  std::string certificate;
  std::string key;
  std::string client_ca;
};

// Errors name the flag, the file and the reason: unreadable, not PEM, expired, not matching.
absl::StatusOr<TlsMaterial> ReadTls(const TlsFiles& files);

}  // namespace tuppence
