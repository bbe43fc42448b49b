// HttpConnection: one connection of the OpenAI door: reads requests within limits of bytes, chunks
// and time, hands each to the routes and writes what they answer; then the next. A coroutine on its
// worker's thread. While a request is answered the connection goes on reading, whatever came
// already, which is how it learns that the caller is gone; what a pipelining caller sent meanwhile
// is the next request's.
// Made by http_server.
#pragma once

#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace tuppence {

class Clock;
class HttpRoutes;

struct HttpLimits {
  int64_t header_bytes_max = 16 << 10;
  int64_t body_bytes_max = 2 << 20;
  int64_t upload_bytes_max = 0;        // the same of an upload, form and all; 0: there are none
  int64_t chunks_max = 65536;          // of one body
  int64_t header_ns = 10'000'000'000;  // for a handshake, and for a header
  int64_t body_ns = 30'000'000'000;    // for a body; for each piece of an upload
  int64_t idle_ns = 75'000'000'000;    // between two requests
  int64_t stall_ns = 30'000'000'000;   // a write that nobody takes for so long ends it
};

// What the connections of a server share.
struct HttpDoor {
  HttpLimits limits;
  const HttpRoutes* routes = nullptr;
  const Clock* clock = nullptr;
  std::atomic<bool> draining = false;  // connections close after the answer at hand
  std::atomic<int64_t>* stalled_calls = nullptr;
};

class HttpConnection {
 public:
  virtual ~HttpConnection() = default;
  // On the connection's thread, now and then: ends what has taken too long.
  virtual void Expire(int64_t now_ns) = 0;
  // Idle ones end at once, others after the answer at hand.
  virtual void Drain() = 0;
  virtual void Close() = 0;
};

// Serves the socket until it is closed, then calls `ended`. `tls` null: plain. `begun`: what was
// read of it before; then it is closed after the first answer. On the socket's own thread; `door`
// and `tls` outlive the connection.
std::shared_ptr<HttpConnection> StartHttpConnection(boost::asio::ip::tcp::socket socket,
                                                    boost::asio::ssl::context* tls, HttpDoor* door,
                                                    std::string begun,
                                                    std::function<void(HttpConnection*)> ended);

}  // namespace tuppence
