// Opening a port: what every door does alike, and what each says when it cannot.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <string>

#include "absl/status/status.h"

namespace tuppence {

// One of the ports: how it is called, and what comes before "host" and "port" in its flags.
struct Door {
  const char* name;
  const char* flag_prefix;
};
constexpr Door kGrpcDoor = {"gRPC", ""};
constexpr Door kHttpDoor = {"HTTP", "http-"};
constexpr Door kAdminDoor = {"admin HTTP", "admin-"};

// "127.0.0.1:8033", "[::1]:8033".
std::string AddressText(const std::string& host, int port);

// Opens the acceptor there and listens. ALREADY_EXISTS where another process does; UNAVAILABLE for
// an address or port that cannot be had, each with the way out.
absl::Status Listen(const Door& door, const std::string& host, int port,
                    boost::asio::ip::tcp::acceptor* acceptor);
// The same, and lets go again.
absl::Status TryListening(const Door& door, const std::string& host, int port);

}  // namespace tuppence
