#include "service/http_connection.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <optional>
#include <sstream>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "scheduler/clock.h"
#include "service/http_exchange.h"
#include "service/http_fault.h"
#include "service/http_routes.h"
#include "service/openai_errors.h"

namespace tuppence {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using tcp = asio::ip::tcp;
using beast::error_code;

constexpr size_t kWatchBytes = 512;             // what is read at once ahead of a request
constexpr size_t kReadBytes = 16384;            // and of one
constexpr int64_t kFarewellNs = 2'000'000'000;  // for a last answer to be read before the close
constexpr size_t kFarewellBytesMax = 8 << 20;
constexpr size_t kFilePieceBytes = 64 << 10;
constexpr int64_t kUploadChunksMax = 1 << 20;

using Parser = http::request_parser<http::string_body>;
using UploadParser = http::request_parser<http::buffer_body>;

auto Into(error_code& error) { return asio::redirect_error(asio::use_awaitable, error); }

template <typename Stream>
class Connection final : public HttpConnection,
                         public HttpExchange,
                         public std::enable_shared_from_this<Connection<Stream>> {
 public:
  Connection(Stream stream, HttpDoor* door, const std::string& begun,
             std::function<void(HttpConnection*)> ended)
      : stream_(std::move(stream)),
        door_(door),
        ended_(std::move(ended)),
        serves_one_(!begun.empty()),
        buffer_(static_cast<size_t>(door->limits.header_bytes_max) + (64 << 10)),
        watched_(stream_.get_executor()) {
    buffer_.commit(asio::buffer_copy(buffer_.prepare(begun.size()), asio::buffer(begun)));
  }

  void Start() {
    asio::co_spawn(
        stream_.get_executor(), [self = this->shared_from_this()] { return self->Run(); },
        asio::detached);
  }

  // HttpConnection.
  void Expire(int64_t now_ns) override;
  void Drain() override {
    if (phase_ == Phase::kIdle || phase_ == Phase::kHeader) Close();
  }
  void Close() override {
    error_code ignored;
    Socket().close(ignored);
  }

  // HttpExchange.
  const HttpRequest& request() const override { return request_; }
  void DropRequest() override { request_ = HttpRequest(); }
  asio::any_io_executor executor() override { return stream_.get_executor(); }
  asio::awaitable<bool> Reply(HttpReply reply) override;
  asio::awaitable<bool> WriteEvents(std::string events, bool last,
                                    const HttpHeaders& headers) override;
  asio::awaitable<int64_t> ReadBody(char* into, size_t size) override;
  void OnBroken(HttpHeaders headers) override { fault_headers_ = std::move(headers); }
  asio::awaitable<bool> ReplyFile(HttpReply head, int file, int64_t bytes) override;
  void OnGone(std::function<void()> gone) override {
    on_gone_ = std::move(gone);
    if (gone_) TellGone();
  }

 private:
  enum class Phase : uint8_t { kHeader, kBody, kAnswering, kIdle, kClosing };
  static constexpr bool kTls = !std::is_same_v<Stream, tcp::socket>;

  asio::awaitable<void> Run();
  asio::awaitable<bool> ServeOne();
  asio::awaitable<bool> ReadHeader(Parser* parser);
  asio::awaitable<bool> ReadWhole(Parser* parser);
  asio::awaitable<bool> ServeUpload(Parser* parser);
  asio::awaitable<bool> MeetExpectation(const HttpHeader& header);
  asio::awaitable<bool> Refuse(error_code error);
  int64_t UploadBytesMax() const {
    return std::max(door_->limits.upload_bytes_max, door_->limits.body_bytes_max);
  }
  asio::awaitable<bool> WaitForNext();
  asio::awaitable<void> SayGoodbye();
  asio::awaitable<bool> Write(std::string text);
  void Watch();
  asio::awaitable<void> EndWatch();
  bool HasRoom() const { return buffer_.size() + kWatchBytes <= buffer_.max_size(); }
  void SkipLineEnds();
  bool HasClosed();
  void TellGone();
  std::string Head(int status, const std::string& content_type, const HttpHeaders& headers,
                   std::optional<size_t> body_bytes) const;

  tcp::socket::lowest_layer_type& Socket() { return stream_.lowest_layer(); }
  void ExpireAfter(int64_t ns) { expires_ns_ = door_->clock->NowNs() + ns; }

  Stream stream_;
  HttpDoor* const door_;
  const std::function<void(HttpConnection*)> ended_;
  const bool serves_one_;  // it came from a port where other pages are, and goes after the answer
  beast::flat_buffer buffer_;
  HttpRequest request_;
  UploadParser* upload_ = nullptr;  // of the request at hand, where it is one
  error_code upload_error_;
  HttpHeaders fault_headers_;  // of the answer to it
  Phase phase_ = Phase::kHeader;
  int64_t expires_ns_ = 0;  // 0: never
  unsigned version_ = 11;
  bool keep_alive_ = false;
  bool head_alone_ = false;  // of the answer, whatever it is
  bool timed_out_ = false;
  bool began_events_ = false;
  bool watching_ = false;  // a read is outstanding while the request is answered
  bool ending_watch_ = false;
  bool gone_ = false;
  std::function<void()> on_gone_;
  Signal watched_;
};

template <typename Stream>
asio::awaitable<void> Connection<Stream>::Run() {
  ExpireAfter(door_->limits.header_ns);
  error_code error;
  if constexpr (kTls) {
    co_await stream_.async_handshake(asio::ssl::stream_base::server, Into(error));
  }
  if (!error) {
    while (co_await ServeOne()) {
    }
    if (!gone_) co_await SayGoodbye();
  }
  Close();
  ended_(this);
}

// False when the connection has served its last request.
template <typename Stream>
asio::awaitable<bool> Connection<Stream>::ServeOne() {
  phase_ = Phase::kHeader;
  Parser parser;
  parser.header_limit(static_cast<uint32_t>(door_->limits.header_bytes_max));
  // Whether it is an upload is known once the header is read; the others are held to less then.
  parser.body_limit(static_cast<uint64_t>(UploadBytesMax()));
  if (!co_await ReadHeader(&parser)) co_return false;
  const bool is_upload = door_->routes->TakesUpload(parser.get());
  if (!is_upload) {
    const uint64_t most = static_cast<uint64_t>(door_->limits.body_bytes_max);
    if (parser.content_length().value_or(0) > most) {
      const error_code too_long = http::error::body_limit;
      co_return co_await Refuse(too_long);
    }
    parser.body_limit(most);
  }
  // What the header alone decides is decided before the body is let in.
  std::optional<HttpReply> refusal = door_->routes->Judge(parser.get());
  if (refusal.has_value()) {
    // Where a request of wrong form ends is anybody's guess, and a proxy's may be another.
    keep_alive_ = keep_alive_ && parser.is_done() && refusal->status != 400;
    HttpReply reply = *std::move(refusal);
    co_await Reply(std::move(reply));
    co_return co_await WaitForNext();
  }
  if (is_upload) co_return co_await ServeUpload(&parser);
  if (!co_await ReadWhole(&parser)) co_return false;
  request_ = parser.release();
  phase_ = Phase::kAnswering;
  expires_ns_ = 0;
  began_events_ = false;
  buffer_.shrink_to_fit();  // thousands of open streams should not keep what they once read into
  Watch();
  co_await door_->routes->Answer(*this);
  on_gone_ = nullptr;
  DropRequest();
  co_return co_await WaitForNext();
}

template <typename Stream>
asio::awaitable<bool> Connection<Stream>::ReadHeader(Parser* parser) {
  ExpireAfter(door_->limits.header_ns);
  buffer_.reserve(kReadBytes);
  error_code error;
  co_await http::async_read_header(stream_, buffer_, *parser, Into(error));
  if (error) co_return co_await Refuse(error);
  version_ = parser->get().version();
  keep_alive_ = parser->get().keep_alive() && version_ >= 11 && !serves_one_;
  head_alone_ = parser->get().method() == http::verb::head;
  co_return true;
}

template <typename Stream>
asio::awaitable<bool> Connection<Stream>::MeetExpectation(const HttpHeader& header) {
  if (!beast::iequals(header[http::field::expect], "100-continue")) co_return true;
  co_return co_await Write("HTTP/1.1 100 Continue\r\n\r\n");
}

template <typename Stream>
asio::awaitable<bool> Connection<Stream>::ReadWhole(Parser* parser) {
  if (parser->is_done()) co_return true;
  int64_t chunks_left = door_->limits.chunks_max;
  auto count_chunk = [&chunks_left](uint64_t, beast::string_view, error_code& error) {
    if (--chunks_left < 0) error = http::error::body_limit;
  };
  parser->on_chunk_header(count_chunk);
  if (!co_await MeetExpectation(parser->get())) co_return false;
  phase_ = Phase::kBody;
  ExpireAfter(door_->limits.body_ns);
  error_code error;
  co_await http::async_read(stream_, buffer_, *parser, Into(error));
  if (error) co_return co_await Refuse(error);
  co_return true;
}

// The handler reads the body itself, piece by piece. What it leaves unread ends the connection.
template <typename Stream>
asio::awaitable<bool> Connection<Stream>::ServeUpload(Parser* parser) {
  UploadParser upload(std::move(*parser));
  upload.body_limit(static_cast<uint64_t>(UploadBytesMax()));
  int64_t chunks_left = kUploadChunksMax;
  auto count_chunk = [&chunks_left](uint64_t, beast::string_view, error_code& error) {
    if (--chunks_left < 0) error = http::error::body_limit;
  };
  upload.on_chunk_header(count_chunk);
  request_ = HttpRequest(upload.get().base());
  upload_ = &upload;
  upload_error_ = {};
  began_events_ = false;
  phase_ = Phase::kAnswering;
  expires_ns_ = 0;
  if (!co_await MeetExpectation(upload.get())) co_return false;
  co_await door_->routes->Answer(*this);
  upload_ = nullptr;
  DropRequest();
  if (upload_error_) co_return co_await Refuse(upload_error_);
  keep_alive_ = keep_alive_ && upload.is_done();
  co_return co_await WaitForNext();
}

template <typename Stream>
asio::awaitable<int64_t> Connection<Stream>::ReadBody(char* into, size_t size) {
  if (upload_->is_done()) co_return 0;
  http::buffer_body::value_type& body = upload_->get().body();
  body.data = into;
  body.size = size;
  body.more = true;
  phase_ = Phase::kBody;
  ExpireAfter(door_->limits.body_ns);
  error_code error;
  co_await http::async_read(stream_, buffer_, *upload_, Into(error));
  phase_ = Phase::kAnswering;
  expires_ns_ = 0;
  if (error == http::error::need_buffer) error = {};
  if (error) {
    upload_error_ = error;
    co_return -1;
  }
  co_return static_cast<int64_t>(size - body.size);
}

// Answers what was no request, and reads no further. False.
template <typename Stream>
asio::awaitable<bool> Connection<Stream>::Refuse(error_code error) {
  keep_alive_ = false;
  const HttpLimits& limits = door_->limits;
  const HttpFault fault =
      upload_error_
          ? HttpFaultOf(error, timed_out_, limits, UploadBytesMax(), kUploadChunksMax)
          : HttpFaultOf(error, timed_out_, limits, limits.body_bytes_max, limits.chunks_max);
  if (fault.status == 0) {
    gone_ = true;
    co_return false;
  }
  HttpReply reply;
  if (upload_error_) {  // its handler has counted and logged it
    reply = ErrorReply(fault.status, {.message = fault.message});
    reply.headers = std::move(fault_headers_);
  } else {
    reply = door_->routes->Fault(fault.status, fault.message);
  }
  co_await Reply(std::move(reply));
  co_return false;
}

template <typename Stream>
asio::awaitable<bool> Connection<Stream>::WaitForNext() {
  if (gone_ || !keep_alive_ || door_->draining) co_return false;
  phase_ = Phase::kIdle;
  ExpireAfter(door_->limits.idle_ns);
  do {
    if (buffer_.size() == 0) Watch();
    while (watching_ && buffer_.size() == 0) co_await watched_.Wait();
    co_await EndWatch();
    SkipLineEnds();
  } while (buffer_.size() == 0 && !gone_);
  co_return !gone_;
}

// Reads on while the request is answered, as long as there is room: an end or an error says that
// the caller is gone, bytes are the next request's.
template <typename Stream>
void Connection<Stream>::Watch() {
  if (watching_ || gone_ || !HasRoom()) return;
  watching_ = true;
  stream_.async_read_some(buffer_.prepare(kWatchBytes), [self = this->shared_from_this()](
                                                            error_code error, size_t bytes) {
    self->watching_ = false;
    self->buffer_.commit(bytes);
    const bool ended_by_us = self->ending_watch_ && error == asio::error::operation_aborted;
    if (error && !ended_by_us) self->TellGone();
    if (self->phase_ == Phase::kAnswering) self->Watch();
    self->watched_.Set();
  });
}

// The next request is there already, and whoever reads that is to be the only one.
template <typename Stream>
asio::awaitable<void> Connection<Stream>::EndWatch() {
  ending_watch_ = true;
  while (watching_) {
    error_code ignored;
    Socket().cancel(ignored);
    co_await watched_.Wait();
  }
  ending_watch_ = false;
}

// Some clients end a body with a line's end that belongs to nothing (RFC 9112, 2.2).
template <typename Stream>
void Connection<Stream>::SkipLineEnds() {
  const auto bytes = buffer_.data();
  const char* const begin = static_cast<const char*>(bytes.data());
  buffer_.consume(std::string_view(begin, bytes.size()).find_first_not_of("\r\n"));
}

// Where what a caller sent ahead fills the buffer nobody reads, and only the socket knows.
template <typename Stream>
bool Connection<Stream>::HasClosed() {
  pollfd socket = {.fd = Socket().native_handle(), .events = POLLRDHUP, .revents = 0};
  return poll(&socket, 1, 0) == 1;
}

template <typename Stream>
void Connection<Stream>::TellGone() {
  gone_ = true;
  if (const auto gone = std::exchange(on_gone_, nullptr)) gone();
}

template <typename Stream>
void Connection<Stream>::Expire(int64_t now_ns) {
  if (phase_ == Phase::kAnswering && upload_ == nullptr && !HasRoom() && HasClosed()) TellGone();
  if (expires_ns_ == 0 || now_ns < expires_ns_) return;
  error_code ignored;
  if ((phase_ == Phase::kHeader || phase_ == Phase::kBody) && !timed_out_) {
    timed_out_ = true;
    Socket().cancel(ignored);
    return;
  }
  if (phase_ == Phase::kAnswering && door_->stalled_calls != nullptr) ++*door_->stalled_calls;
  Close();
}

// The caller may still be sending what nobody will read; closing at once would take the answer
// away from it (RFC 9112, 9.6).
template <typename Stream>
asio::awaitable<void> Connection<Stream>::SayGoodbye() {
  phase_ = Phase::kClosing;
  ExpireAfter(kFarewellNs);
  error_code error;
  if constexpr (kTls) {
    co_await stream_.async_shutdown(Into(error));
  } else {
    Socket().shutdown(tcp::socket::shutdown_send, error);
    std::array<char, 4096> unread;
    size_t bytes = 0;
    while (!error && bytes < kFarewellBytesMax) {
      bytes += co_await stream_.async_read_some(asio::buffer(unread), Into(error));
    }
  }
}

template <typename Stream>
std::string Connection<Stream>::Head(int status, const std::string& content_type,
                                     const HttpHeaders& headers,
                                     std::optional<size_t> body_bytes) const {
  http::response<http::empty_body> head(static_cast<http::status>(status), version_);
  head.set(http::field::content_type, content_type);
  head.set(http::field::cache_control, body_bytes.has_value() ? "no-store" : "no-cache");
  head.set("X-Content-Type-Options", "nosniff");
  for (const auto& [name, value] : headers) head.insert(name, value);
  if (body_bytes.has_value()) {
    head.content_length(*body_bytes);
  } else {
    head.chunked(version_ >= 11);
    head.set("X-Accel-Buffering", "no");  // a proxy should pass each event on as it comes
  }
  head.keep_alive(keep_alive_ && !door_->draining);
  std::ostringstream text;
  text << head.base();
  return text.str();
}

template <typename Stream>
asio::awaitable<bool> Connection<Stream>::Reply(HttpReply reply) {
  if (door_->draining) keep_alive_ = false;
  std::string text = Head(reply.status, reply.content_type, reply.headers, reply.body.size());
  if (!head_alone_) text += reply.body;
  co_return co_await Write(std::move(text));
}

template <typename Stream>
asio::awaitable<bool> Connection<Stream>::ReplyFile(HttpReply head, int file, int64_t bytes) {
  if (door_->draining) keep_alive_ = false;
  std::string text = Head(head.status, head.content_type, head.headers, static_cast<size_t>(bytes));
  if (head_alone_) bytes = 0;
  int64_t sent = 0;
  while (co_await Write(std::move(text))) {
    if (sent == bytes) co_return true;
    text.resize(std::min<size_t>(kFilePieceBytes, static_cast<size_t>(bytes - sent)));
    const ssize_t read = pread(file, text.data(), text.size(), sent);
    if (read <= 0) break;  // shorter than its length, which is told already: only a close says so
    text.resize(static_cast<size_t>(read));
    sent += read;
  }
  keep_alive_ = false;
  co_return false;
}

template <typename Stream>
asio::awaitable<bool> Connection<Stream>::WriteEvents(std::string events, bool last,
                                                      const HttpHeaders& headers) {
  std::string text;
  if (!began_events_) {
    began_events_ = true;
    text = Head(200, "text/event-stream; charset=utf-8", headers, std::nullopt);
  }
  if (version_ >= 11) {
    if (!events.empty()) {
      absl::StrAppend(&text, absl::Hex(events.size()), "\r\n", events, "\r\n");
    }
    if (last) text += "0\r\n\r\n";
  } else {
    text += events;  // the close ends it
  }
  co_return co_await Write(std::move(text));
}

template <typename Stream>
asio::awaitable<bool> Connection<Stream>::Write(std::string text) {
  if (gone_) co_return false;
  ExpireAfter(door_->limits.stall_ns);
  error_code error;
  co_await asio::async_write(stream_, asio::buffer(text), Into(error));
  expires_ns_ = 0;
  if (error) TellGone();
  co_return !gone_;
}

}  // namespace

std::shared_ptr<HttpConnection> StartHttpConnection(tcp::socket socket, asio::ssl::context* tls,
                                                    HttpDoor* door, std::string begun,
                                                    std::function<void(HttpConnection*)> ended) {
  error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  const auto start = [&](auto stream) -> std::shared_ptr<HttpConnection> {
    using Stream = decltype(stream);
    auto connection =
        std::make_shared<Connection<Stream>>(std::move(stream), door, begun, std::move(ended));
    connection->Start();
    return connection;
  };
  if (tls == nullptr) return start(std::move(socket));
  return start(asio::ssl::stream<tcp::socket>(std::move(socket), *tls));
}

}  // namespace tuppence
