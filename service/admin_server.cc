#include "service/admin_server.h"

#include <pthread.h>
#include <sys/resource.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <optional>
#include <sstream>
#include <thread>
#include <utility>

#include "service/listening.h"

namespace tuppence {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using tcp = asio::ip::tcp;

constexpr uint32_t kHeaderBytesMax = 16 << 10;
constexpr uint64_t kBodyBytesMax = 1 << 10;
constexpr int kConnectionsMax = 64;
// A scrape fits between two steps as well as into one. Measured with both cores of a machine at
// work: it takes 9 ms instead of 0.5, and a step it overlaps 0.1 ms more instead of 0.5.
constexpr int kNice = 19;
constexpr std::chrono::seconds kRequestTimeout{5};
constexpr std::chrono::seconds kIdleTimeout{75};  // longer than a scraper's usual interval

// A page works with what comes from this port alone, and stands in no other site's frame.
constexpr char kContentPolicy[] =
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

using Response = http::response<http::string_body>;

Response MakeResponse(AdminPage page, const http::request<http::string_body>& request) {
  Response response(static_cast<http::status>(page.status), request.version());
  response.set(http::field::content_type, page.content_type);
  response.set(http::field::cache_control, "no-store");
  response.set("X-Content-Type-Options", "nosniff");
  response.set("Content-Security-Policy", kContentPolicy);
  response.set("Referrer-Policy", "no-referrer");
  response.keep_alive(request.keep_alive());
  response.body() = std::move(page.body);
  response.prepare_payload();
  if (request.method() == http::verb::head) response.body().clear();  // its length stays
  return response;
}

AdminPage Answer(const AdminRoutes& routes, const http::request<http::string_body>& request) {
  if (request.method() != http::verb::get && request.method() != http::verb::head) {
    return {405, "text/plain; charset=utf-8", "only GET and HEAD are answered here\n"};
  }
  std::string path(request.target());
  path.resize(std::min(path.find('?'), path.size()));
  const auto route = routes.find(path);
  if (route == routes.end()) {
    return {404, "text/plain; charset=utf-8", "no such page; / lists them\n"};
  }
  return route->second();
}

AdminPage FaultPage(beast::error_code error) {
  if (error == http::error::header_limit) {
    return {431, "text/plain; charset=utf-8", "the header is too large\n"};
  }
  if (error == http::error::body_limit) {
    return {413, "text/plain; charset=utf-8", "no body is read here\n"};
  }
  return {400, "text/plain; charset=utf-8", "this is not HTTP/1.1\n"};
}

// One connection; lives as long as an operation on it does.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(tcp::socket socket, const AdminRoutes& routes, const PostTaker& posts, int* open)
      : stream_(std::move(socket)), routes_(routes), posts_(posts), open_(open) {
    ++*open_;
  }
  ~Connection() { --*open_; }

  void Refuse() {
    AdminPage page{503, "text/plain; charset=utf-8", "too many connections; close some\n"};
    http::request<http::string_body> none;
    none.version(11);
    none.keep_alive(false);
    Write(MakeResponse(std::move(page), none));
  }

  void Read(std::chrono::seconds timeout) {
    parser_.emplace();
    parser_->header_limit(kHeaderBytesMax);
    parser_->body_limit(kBodyBytesMax);
    stream_.expires_after(timeout);
    http::async_read_header(
        stream_, buffer_, *parser_,
        [self = shared_from_this()](beast::error_code error, size_t) { self->OnHeader(error); });
  }

 private:
  void OnHeader(beast::error_code error) {
    if (!error && parser_->get().method() == http::verb::post && posts_.ready()) {
      return HandOver();
    }
    if (error || parser_->is_done()) return OnRead(error);
    http::async_read(
        stream_, buffer_, *parser_,
        [self = shared_from_this()](beast::error_code failure, size_t) { self->OnRead(failure); });
  }

  // Whoever takes over reads the header again, as it stood here.
  void HandOver() {
    std::ostringstream begun;
    begun << parser_->get().base();
    tcp::socket socket = stream_.release_socket();
    posts_.take(socket.release(), begun.str() + beast::buffers_to_string(buffer_.data()));
  }

  void OnRead(beast::error_code error) {
    if (!error) {
      Write(MakeResponse(Answer(routes_, parser_->get()), parser_->get()));
      return;
    }
    if (error.category() != make_error_code(http::error::bad_method).category() ||
        error == http::error::end_of_stream || error == http::error::partial_message) {
      return;  // closed, timed out or cut: nobody to answer
    }
    http::request<http::string_body> none;
    none.version(11);
    none.keep_alive(false);
    Write(MakeResponse(FaultPage(error), none));
  }

  void Write(Response response) {
    response_ = std::move(response);
    stream_.expires_after(kRequestTimeout);
    http::async_write(stream_, response_,
                      [self = shared_from_this()](beast::error_code error, size_t) {
                        if (!error && self->response_.keep_alive()) {
                          self->Read(kIdleTimeout);
                        } else {
                          self->stream_.socket().shutdown(tcp::socket::shutdown_send, error);
                        }
                      });
  }

  beast::tcp_stream stream_;
  beast::flat_buffer buffer_{kHeaderBytesMax + kBodyBytesMax};
  std::optional<http::request_parser<http::string_body>> parser_;
  Response response_;
  const AdminRoutes& routes_;
  const PostTaker& posts_;
  int* open_;
};

}  // namespace

class AdminServer::Impl {
 public:
  Impl(AdminRoutes routes, PostTaker posts)
      : routes_(std::move(routes)), posts_(std::move(posts)), acceptor_(io_) {}

  absl::Status Listen(const std::string& host, int port) {
    return tuppence::Listen(kAdminDoor, host, port, &acceptor_);
  }

  void Run() {
    Accept();
    thread_ = std::thread([this] {
      pthread_setname_np(pthread_self(), "admin");  // as top -H, perf and gdb show it
      setpriority(PRIO_PROCESS, 0, kNice);          // of this thread alone, on Linux
      io_.run();
    });
  }

  void Stop() {
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }

  int port() const { return acceptor_.local_endpoint().port(); }

 private:
  void Accept() {
    acceptor_.async_accept([this](beast::error_code error, tcp::socket socket) {
      if (!error) {
        auto connection = std::make_shared<Connection>(std::move(socket), routes_, posts_, &open_);
        if (open_ > kConnectionsMax) {
          connection->Refuse();
        } else {
          connection->Read(kRequestTimeout);
        }
      }
      if (acceptor_.is_open()) Accept();
    });
  }

  const AdminRoutes routes_;
  const PostTaker posts_;
  int open_ = 0;  // connections; admin thread only. Outlives the handlers that io_ still holds.
  asio::io_context io_{1};
  tcp::acceptor acceptor_;
  std::thread thread_;
};

AdminServer::AdminServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
AdminServer::~AdminServer() { impl_->Stop(); }

absl::StatusOr<std::unique_ptr<AdminServer>> AdminServer::Start(const std::string& host, int port,
                                                                AdminRoutes routes,
                                                                PostTaker posts) {
  auto impl = std::make_unique<Impl>(std::move(routes), std::move(posts));
  if (absl::Status status = impl->Listen(host, port); !status.ok()) return status;
  impl->Run();
  return std::unique_ptr<AdminServer>(new AdminServer(std::move(impl)));
}

int AdminServer::port() const { return impl_->port(); }

}  // namespace tuppence
