// See client_flags.h.
#include "service/client_flags.h"

#include <CLI/CLI.hpp>

namespace tuppence {

void AddClientFlags(CLI::App& command, ClientOptions* options) {
  command.add_option("--address", options->address, "Where the service listens, host:port")
      ->capture_default_str();
  command.add_option("--tls-ca", options->tls_ca,
                     "PEM file of the authority that signed the service's certificate; turns TLS "
                     "on");
  command.add_option("--tls-cert", options->tls_cert,
                     "PEM file of our own certificate, where the service asks for one; turns TLS "
                     "on");
  command.add_option("--tls-key", options->tls_key, "PEM file of that certificate's private key");
  command.add_option("--key", options->key, "Key to show, where the service asks for one")
      ->envname("TUPPENCE_KEY");
  command
      .add_option("--timeout", options->timeout_seconds,
                  "Seconds after which a call is given up, here and by the service; 0 waits")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
}

}  // namespace tuppence
