#include "service/tls.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>

#include "absl/strings/str_cat.h"

namespace tuppence {
namespace {

struct Free {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
using Certificate = std::unique_ptr<X509, Free>;
using Key = std::unique_ptr<EVP_PKEY, Free>;

std::unique_ptr<BIO, Free> Reader(const std::string& text) {
  return std::unique_ptr<BIO, Free>(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// The newest of OpenSSL's errors, which it keeps per thread.
std::string LibraryReason() {
  const unsigned long code = ERR_peek_last_error();
  ERR_clear_error();
  const char* reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  return reason == nullptr ? "unknown reason" : reason;
}

absl::Status Fault(const char* flag, const std::string& path, std::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat(flag, " ", path, ": ", absl::string_view(what.data(), what.size())));
}

absl::StatusOr<std::string> ReadFile(const char* flag, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (file) text << file.rdbuf();
  if (!file)
    return Fault(flag, path,
                 absl::StrCat("cannot be read: ", std::strerror(errno),
                              "; check the path and who may read it"));
  return text.str();
}

absl::StatusOr<Certificate> ParseCertificate(const char* flag, const std::string& path,
                                             const std::string& text) {
  Certificate certificate(PEM_read_bio_X509(Reader(text).get(), nullptr, nullptr, nullptr));
  if (certificate == nullptr) {
    return Fault(flag, path,
                 absl::StrCat("holds no PEM certificate (", LibraryReason(),
                              "); it should begin with -----BEGIN CERTIFICATE-----"));
  }
  if (X509_cmp_current_time(X509_get0_notAfter(certificate.get())) < 0) {
    return Fault(flag, path, "the certificate has expired; renew it");
  }
  if (X509_cmp_current_time(X509_get0_notBefore(certificate.get())) > 0) {
    return Fault(flag, path, "the certificate is not valid yet; check this machine's clock");
  }
  return certificate;
}

// A service has nobody to ask for a passphrase.
int NoPassphrase(char*, int, int, void*) { return -1; }

absl::StatusOr<Key> ParseKey(const std::string& path, const std::string& text) {
  Key key(PEM_read_bio_PrivateKey(Reader(text).get(), nullptr, NoPassphrase, nullptr));
  if (key == nullptr) {
    return Fault("--tls-key", path,
                 absl::StrCat("holds no usable PEM private key (", LibraryReason(),
                              "); it must be unencrypted"));
  }
  return key;
}

}  // namespace

absl::StatusOr<TlsMaterial> ReadTls(const TlsFiles& files) {
  TlsMaterial material;
  const absl::StatusOr<std::string> certificate_text = ReadFile("--tls-cert", files.certificate);
  if (!certificate_text.ok()) return certificate_text.status();
  const absl::StatusOr<std::string> key_text = ReadFile("--tls-key", files.key);
  if (!key_text.ok()) return key_text.status();
  const absl::StatusOr<Certificate> certificate =
      ParseCertificate("--tls-cert", files.certificate, *certificate_text);
  if (!certificate.ok()) return certificate.status();
  const absl::StatusOr<Key> key = ParseKey(files.key, *key_text);
  if (!key.ok()) return key.status();
  if (X509_check_private_key(certificate->get(), key->get()) != 1) {
    ERR_clear_error();
    return Fault("--tls-key", files.key,
                 absl::StrCat("is not the key of the certificate in ", files.certificate,
                              "; give the pair that was issued together"));
  }
  material.certificate = *certificate_text;
  material.key = *key_text;
  if (!files.client_ca.empty()) {
    const absl::StatusOr<std::string> ca_text = ReadFile("--tls-client-ca", files.client_ca);
    if (!ca_text.ok()) return ca_text.status();
    const auto ca = ParseCertificate("--tls-client-ca", files.client_ca, *ca_text);
    if (!ca.ok()) return ca.status();
    material.client_ca = *ca_text;
  }
  return material;
}

}  // namespace tuppence
