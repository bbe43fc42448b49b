// HttpExchange: one HTTP request and its answer, as a handler sees them: the request is read, the
// answer is written whole or as events, and the caller may be gone meanwhile. Implemented by
// http_connection for plain and TLS streams; used by the handlers that http_routes lists.
//
// All of an exchange happens on its connection's thread. What is given to an awaited call has a
// name: GCC 12 destroys an aggregate that is made within a co_await expression twice.
#pragma once

// clang-format off
#include <utility>  // first: awaitable.hpp of Boost 1.74 needs it and does not include it
// clang-format on

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/string_body.hpp>
#include <functional>
#include <string>
#include <vector>

#include "service/call_identity.h"

namespace tuppence {

using HttpHeader = boost::beast::http::request_header<>;
using HttpRequest = boost::beast::http::request<boost::beast::http::string_body>;
using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpReply {
  int status = 200;
  std::string body = {};
  HttpHeaders headers = {};
  std::string content_type = "application/json";
};

class HttpExchange {
 public:
  virtual ~HttpExchange() = default;

  virtual const HttpRequest& request() const = 0;
  // The request is read no more; its memory goes.
  virtual void DropRequest() = 0;
  virtual boost::asio::any_io_executor executor() = 0;

  // The whole answer. False where the caller is gone.
  virtual boost::asio::awaitable<bool> Reply(HttpReply reply) = 0;
  // Server-sent events: the header travels with the first piece, so nothing is committed before.
  // `events` is one or more whole events; the last piece ends the answer. False: the caller is
  // gone.
  virtual boost::asio::awaitable<bool> WriteEvents(std::string events, bool last,
                                                   const HttpHeaders& headers) = 0;

  // Of a route that takes uploads, whose request() has no body: the body's next bytes, at most
  // `size`; 0 at its end; below 0: it broke off, and there is nobody to answer, or the connection
  // does it.
  virtual boost::asio::awaitable<int64_t> ReadBody(char* into, size_t size) = 0;
  // What the connection's answer to a body that broke off says beside the error.
  virtual void OnBroken(HttpHeaders headers) = 0;
  // The answer's body is so many bytes of an open file, read as they are sent. False as in Reply.
  virtual boost::asio::awaitable<bool> ReplyFile(HttpReply head, int file, int64_t bytes) = 0;

  // Called once when the caller closes its side; at once where it has. An empty function: nobody.
  virtual void OnGone(std::function<void()> gone) = 0;
};

// What one coroutine waits for, and others on its thread set.
class Signal {
 public:
  explicit Signal(const boost::asio::any_io_executor& executor)
      : timer_(executor, boost::asio::steady_timer::time_point::max()) {}
  void Set() {
    set_ = true;
    timer_.cancel();
  }
  boost::asio::awaitable<void> Wait() {
    if (!set_) {
      boost::system::error_code cancelled;
      co_await timer_.async_wait(
          boost::asio::redirect_error(boost::asio::use_awaitable, cancelled));
    }
    set_ = false;
  }

 private:
  boost::asio::steady_timer timer_;
  bool set_ = false;
};

}  // namespace tuppence
