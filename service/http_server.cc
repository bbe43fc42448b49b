#include "service/http_server.h"

#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "scheduler/clock.h"
#include "service/http_routes.h"
#include "service/listening.h"
#include "service/service_counters.h"

namespace tuppence {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using tcp = asio::ip::tcp;

constexpr std::chrono::milliseconds kSweep{100};
constexpr int64_t kSecond = 1'000'000'000;

template <int kName>
using TcpOption = asio::detail::socket_option::integer<IPPROTO_TCP, kName>;

// A peer may go without a word, as a machine that loses its network does: the kernel probes a
// silent connection, and closes one whose peer acknowledges nothing. Its user timeout also counts
// while a reader that is there takes nothing, which is for stall_ns to judge.
void ExpectSignsOfLife(const HttpServerOptions& options, tcp::socket* socket) {
  const auto seconds = [](int64_t ns) {
    return static_cast<int>(std::max<int64_t>(1, ns / kSecond));
  };
  const int64_t silence_ns =
      std::max(options.keepalive_ns + options.keepalive_timeout_ns, options.limits.stall_ns);
  error_code ignored;
  socket->set_option(asio::socket_base::keep_alive(true), ignored);
  socket->set_option(TcpOption<TCP_KEEPIDLE>(seconds(options.keepalive_ns)), ignored);
  socket->set_option(TcpOption<TCP_KEEPINTVL>(seconds(options.keepalive_timeout_ns)), ignored);
  socket->set_option(TcpOption<TCP_USER_TIMEOUT>(static_cast<int>(silence_ns / 1'000'000)),
                     ignored);
}

// How many connections are open, for the one who waits for none.
class OpenConnections {
 public:
  explicit OpenConnections(int64_t max) : max_(max) {}
  bool TryEnter() {
    absl::MutexLock lock(&mutex_);
    if (open_ >= max_) return false;
    ++open_;
    return true;
  }
  void Leave() {
    absl::MutexLock lock(&mutex_);
    --open_;
  }
  void WaitForNone(int64_t most_ns) {
    absl::MutexLock lock(&mutex_);
    const auto none = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return open_ == 0; };
    mutex_.AwaitWithTimeout(absl::Condition(&none), absl::Nanoseconds(most_ns));
  }

 private:
  const int64_t max_;
  absl::Mutex mutex_;
  int64_t open_ ABSL_GUARDED_BY(mutex_) = 0;
};

// One thread with its connections. Everything but Post and Join happens on it.
class Worker {
 public:
  Worker(HttpDoor* door, OpenConnections* open)
      : door_(door), open_(open), work_(io_.get_executor()), sweep_(io_) {}

  void Run() {
    Sweep();
    thread_ = std::thread([this] { io_.run(); });
  }
  asio::io_context& io() { return io_; }

  void Take(tcp::socket socket, asio::ssl::context* tls, std::string begun = "") {
    if (door_->draining) {
      open_->Leave();
      return;
    }
    const auto connection = StartHttpConnection(std::move(socket), tls, door_, std::move(begun),
                                                [this](HttpConnection* ended) { Forget(ended); });
    connections_[connection.get()] = connection;
  }
  template <typename Do>
  void ForEach(const Do& what) {
    asio::post(io_, [this, what] {
      for (const auto& [raw, connection] : connections_) what(connection.get());
    });
  }
  // Once no connection is left.
  void Join() {
    asio::post(io_, [this] {
      sweep_.cancel();
      stopping_ = true;
      work_.reset();
    });
    thread_.join();
  }

 private:
  void Sweep() {
    sweep_.expires_after(kSweep);
    sweep_.async_wait([this](error_code) {
      if (stopping_) return;
      const int64_t now_ns = door_->clock->NowNs();
      for (const auto& [raw, connection] : connections_) connection->Expire(now_ns);
      Sweep();
    });
  }
  void Forget(HttpConnection* ended) {
    // Later: the sweep may be looking at it.
    asio::post(io_, [this, ended] {
      connections_.erase(ended);
      open_->Leave();
    });
  }

  HttpDoor* const door_;
  OpenConnections* const open_;
  asio::io_context io_{1};
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  asio::steady_timer sweep_;
  absl::flat_hash_map<HttpConnection*, std::shared_ptr<HttpConnection>> connections_;
  bool stopping_ = false;
  std::thread thread_;
};

// Each connection is a file; the usual soft limit of 1,024 is for programs that use select.
void RaiseFileLimit() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

absl::StatusOr<std::unique_ptr<asio::ssl::context>> MakeTlsContext(const TlsFiles& files) {
  if (files.certificate.empty() || files.key.empty()) {
    return absl::InvalidArgumentError(
        "TLS needs both --tls-cert and --tls-key (and --tls-client-ca to ask clients for theirs)");
  }
  const absl::StatusOr<TlsMaterial> material = ReadTls(files);
  if (!material.ok()) return material.status();
  auto context = std::make_unique<asio::ssl::context>(asio::ssl::context::tls_server);
  error_code error;
  context->set_options(asio::ssl::context::default_workarounds | asio::ssl::context::no_tlsv1 |
                           asio::ssl::context::no_tlsv1_1,
                       error);
  if (!error) context->use_certificate_chain(asio::buffer(material->certificate), error);
  if (!error) {
    context->use_private_key(asio::buffer(material->key), asio::ssl::context::pem, error);
  }
  if (!error && !material->client_ca.empty()) {
    context->add_certificate_authority(asio::buffer(material->client_ca), error);
    if (!error) {
      context->set_verify_mode(asio::ssl::verify_peer | asio::ssl::verify_fail_if_no_peer_cert,
                               error);
    }
  }
  if (error) return absl::InvalidArgumentError(absl::StrCat("TLS: ", error.message()));
  return context;
}

}  // namespace

class HttpServer::Impl {
 public:
  Impl(const HttpServerOptions& options, const ServiceParts& parts,
       std::function<Readiness()> readiness)
      : options_(options),
        parts_(parts),
        routes_(parts_, std::move(readiness)),
        open_(options.connections_max) {
    door_.limits = options.limits;
    door_.routes = &routes_;
    door_.clock = parts.clock;
    door_.stalled_calls = &parts.counters->stalled_calls;
    for (int i = 0; i < options.threads; ++i) {
      workers_.push_back(std::make_unique<Worker>(&door_, &open_));
    }
    acceptor_.emplace(workers_[0]->io());
    pause_.emplace(workers_[0]->io());
  }

  absl::Status Listen() {
    if (options_.port < 0) return absl::OkStatus();
    if (!options_.tls.certificate.empty() || !options_.tls.key.empty() ||
        !options_.tls.client_ca.empty()) {
      auto context = MakeTlsContext(options_.tls);
      if (!context.ok()) return context.status();
      tls_ = *std::move(context);
    }
    const absl::Status listens =
        tuppence::Listen(kHttpDoor, options_.host, options_.port, &*acceptor_);
    if (!listens.ok()) return listens;
    port_ = acceptor_->local_endpoint().port();
    RaiseFileLimit();
    return absl::OkStatus();
  }

  void Run() {
    if (acceptor_->is_open()) Accept();
    for (const auto& worker : workers_) worker->Run();
  }

  void Stop(int64_t grace_ns) {
    if (std::exchange(stopped_, true)) return;
    door_.draining = true;
    asio::post(workers_[0]->io(), [this] {
      error_code ignored;
      acceptor_->close(ignored);
      pause_->cancel();
    });
    for (const auto& worker : workers_) {
      worker->ForEach([](HttpConnection* connection) { connection->Drain(); });
    }
    open_.WaitForNone(grace_ns);
    for (const auto& worker : workers_) {
      worker->ForEach([](HttpConnection* connection) { connection->Close(); });
    }
    for (const auto& worker : workers_) worker->Join();
  }

  void Take(int socket, std::string begun) {
    Worker* const worker = workers_[next_++ % workers_.size()].get();
    if (door_.draining || !open_.TryEnter()) {
      close(socket);
      return;
    }
    asio::post(worker->io(), [worker, socket, begun = std::move(begun)]() mutable {
      sockaddr_storage name = {};
      socklen_t bytes = sizeof(name);
      getsockname(socket, reinterpret_cast<sockaddr*>(&name), &bytes);
      const tcp protocol = name.ss_family == AF_INET6 ? tcp::v6() : tcp::v4();
      worker->Take(tcp::socket(worker->io(), protocol, socket), nullptr, std::move(begun));
    });
  }

  int port() const { return port_; }
  bool uses_tls() const { return tls_ != nullptr; }

 private:
  // Connections go round the workers in turn.
  void Accept() {
    Worker* worker = workers_[next_++ % workers_.size()].get();
    acceptor_->async_accept(worker->io(), [this, worker](error_code error, tcp::socket socket) {
      if (!acceptor_->is_open()) return;
      if (error) {
        // As a rule no file is left: one must be closed first, and trying at once would spin.
        pause_->expires_after(kSweep);
        pause_->async_wait([this](error_code) {
          if (acceptor_->is_open()) Accept();
        });
        return;
      }
      if (open_.TryEnter()) {
        ExpectSignsOfLife(options_, &socket);
        // Shared, for a handler of this Boost must be copyable.
        auto taken = std::make_shared<tcp::socket>(std::move(socket));
        asio::post(worker->io(),
                   [this, worker, taken] { worker->Take(std::move(*taken), tls_.get()); });
      }
      Accept();
    });
  }

  const HttpServerOptions options_;
  const ServiceParts parts_;
  const HttpRoutes routes_;
  HttpDoor door_;
  OpenConnections open_;
  std::unique_ptr<asio::ssl::context> tls_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::optional<tcp::acceptor> acceptor_;  // of workers_[0]
  std::optional<asio::steady_timer> pause_;
  std::atomic<size_t> next_ = 0;
  int port_ = 0;
  bool stopped_ = false;
};

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpServer::~HttpServer() { Stop(0); }

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(
    const HttpServerOptions& options, const ServiceParts& parts,
    std::function<Readiness()> readiness) {
  auto impl = std::make_unique<Impl>(options, parts, std::move(readiness));
  if (absl::Status status = impl->Listen(); !status.ok()) return status;
  impl->Run();
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

int HttpServer::port() const { return impl_->port(); }
void HttpServer::Take(int socket, std::string begun) { impl_->Take(socket, std::move(begun)); }
bool HttpServer::uses_tls() const { return impl_->uses_tls(); }
void HttpServer::Stop(int64_t grace_ns) { impl_->Stop(grace_ns); }

}  // namespace tuppence
