#include "service/listening.h"

#include <boost/asio/io_context.hpp>

#include "absl/strings/str_cat.h"

namespace tuppence {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

std::string WayOut(const Door& door, int port, const boost::system::error_code& error) {
  if (error == asio::error::address_in_use) {
    return absl::StrCat("port ", port,
                        " is in use by another process; stop that one or choose another --",
                        door.flag_prefix, "port");
  }
  if (error == asio::error::access_denied) {
    return absl::StrCat(error.message(), "; ports below 1024 need privileges, choose another --",
                        door.flag_prefix, "port");
  }
  return absl::StrCat(error.message(), "; give --", door.flag_prefix,
                      "host an address of this machine, as 127.0.0.1 or 0.0.0.0");
}

}  // namespace

std::string AddressText(const std::string& host, int port) {
  const bool is_v6 = host.find(':') != std::string::npos && host.front() != '[';
  return is_v6 ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

absl::Status Listen(const Door& door, const std::string& host, int port, tcp::acceptor* acceptor) {
  boost::system::error_code error;
  tcp::resolver resolver(acceptor->get_executor());
  const auto found = resolver.resolve(
      host, std::to_string(port), tcp::resolver::passive | tcp::resolver::numeric_service, error);
  if (!error) {
    const tcp::endpoint endpoint = *found.begin();
    acceptor->open(endpoint.protocol(), error);
    if (!error) acceptor->set_option(asio::socket_base::reuse_address(true), error);
    if (!error) acceptor->bind(endpoint, error);
    if (!error) acceptor->listen(asio::socket_base::max_listen_connections, error);
  }
  if (!error) return absl::OkStatus();
  return absl::Status(error == asio::error::address_in_use ? absl::StatusCode::kAlreadyExists
                                                           : absl::StatusCode::kUnavailable,
                      absl::StrCat("cannot listen for ", door.name, " on ", AddressText(host, port),
                                   ": ", WayOut(door, port, error)));
}

absl::Status TryListening(const Door& door, const std::string& host, int port) {
  asio::io_context io;
  tcp::acceptor acceptor(io);
  return Listen(door, host, port, &acceptor);
}

}  // namespace tuppence
