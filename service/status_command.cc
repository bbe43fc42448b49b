#include "service/status_command.h"

#include <CLI/CLI.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "service/status_page.h"

namespace tuppence {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

constexpr std::chrono::seconds kTimeout{5};
constexpr uint64_t kPageBytesMax = 1 << 20;

struct StatusOptions {
  std::string address = "127.0.0.1:8034";
  bool json = false;
};

// One GET with one time limit over all of it.
class Fetch {
 public:
  Fetch(std::string host, std::string port) : host_(std::move(host)), port_(std::move(port)) {
    parser_.body_limit(kPageBytesMax);
  }

  absl::StatusOr<std::string> Run(const std::string& path) {
    beast::error_code error;
    const auto found = asio::ip::tcp::resolver(io_).resolve(host_, port_, error);
    if (error) return Fault(error);
    request_ = {http::verb::get, path, 11};
    request_.set(http::field::host, host_);
    request_.keep_alive(false);
    stream_.expires_after(kTimeout);
    stream_.async_connect(found, [this](beast::error_code connected, const auto&) {
      if (Failed(connected)) return;
      http::async_write(stream_, request_, [this](beast::error_code written, size_t) {
        if (Failed(written)) return;
        http::async_read(stream_, buffer_, parser_,
                         [this](beast::error_code read, size_t) { Failed(read); });
      });
    });
    io_.run();
    if (error_) return Fault(error_);
    const http::response<http::string_body>& response = parser_.get();
    if (response.result_int() != 200) {
      return absl::UnavailableError(absl::StrCat(host_, ":", port_, " answers ",
                                                 response.result_int(), ": ",
                                                 absl::StripSuffix(response.body(), "\n")));
    }
    return response.body();
  }

 private:
  bool Failed(beast::error_code error) {
    if (error) error_ = error;
    return static_cast<bool>(error);
  }
  absl::Status Fault(beast::error_code error) const {
    return absl::UnavailableError(absl::StrCat("no status from ", host_, ":", port_, ": ",
                                               error.message(),
                                               "; give --address the admin port of a running "
                                               "service (its --admin-port, 8034 if not set)"));
  }

  const std::string host_;
  const std::string port_;
  asio::io_context io_{1};
  beast::tcp_stream stream_{io_};
  beast::flat_buffer buffer_;
  http::request<http::empty_body> request_;
  http::response_parser<http::string_body> parser_;
  beast::error_code error_;
};

int RunStatus(const StatusOptions& options) {
  const size_t colon = options.address.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == options.address.size()) {
    std::fprintf(stderr, "--address is \"%s\"; give HOST:PORT, as 127.0.0.1:8034\n",
                 options.address.c_str());
    return 1;
  }
  std::string host = options.address.substr(0, colon);
  if (host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  const absl::StatusOr<std::string> page =
      Fetch(host, options.address.substr(colon + 1)).Run("/status");
  if (!page.ok()) {
    std::fprintf(stderr, "%s\n", std::string(page.status().message()).c_str());
    return 1;
  }
  try {
    const bool ready = nlohmann::json::parse(*page).at("ready").get<bool>();
    std::fputs((options.json ? *page : FormatStatus(*page)).c_str(), stdout);
    return ready ? 0 : 1;
  } catch (const nlohmann::json::exception& error) {
    std::fprintf(stderr, "%s answers, but not as tuppence's admin port does: %s\n",
                 options.address.c_str(), error.what());
    return 1;
  }
}

}  // namespace

void AddStatusCommand(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand("status", "Print how a running service fares");
  auto options = std::make_shared<StatusOptions>();
  command->add_option("--address", options->address, "The service's admin port, HOST:PORT")
      ->capture_default_str();
  command->add_flag("--json", options->json, "The page as it is");
  command->footer("Ends with 1 where nobody answers or the service is not ready.");
  command->callback([options, exit_code] { *exit_code = RunStatus(*options); });
}

}  // namespace tuppence
