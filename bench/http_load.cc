// See http_load.h.
#include "bench/http_load.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "service/http_exchange.h"

namespace tuppence {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using tcp = asio::ip::tcp;
using std::chrono::steady_clock;
using Json = nlohmann::json;

constexpr size_t kReadBytes = 16 << 10;

auto Into(error_code& error) { return asio::redirect_error(asio::use_awaitable, error); }

double SecondsBetween(steady_clock::time_point from, steady_clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

std::string RequestText(const v1::GenerateRequest& request, const std::string& host) {
  const v1::SamplingParams& sampling = request.sampling();
  Json body = {{"max_tokens", sampling.max_tokens()},
               {"temperature", sampling.temperature()},
               {"seed", sampling.seed()},
               {"ignore_eos", sampling.ignore_eos()},
               {"stream", true},
               {"stream_options", {{"include_usage", true}}},
               {"return_token_ids", request.output().no_text()}};
  if (request.has_text()) body["prompt"] = request.text();
  std::string json = body.dump();
  if (!request.has_text()) {  // not by the library: callers share the machine with what is measured
    json.insert(1,
                absl::StrCat("\"prompt\":[", absl::StrJoin(request.token_ids().ids(), ","), "],"));
  }
  return absl::StrCat("POST /v1/completions HTTP/1.1\r\nHost: ", host,
                      "\r\nContent-Type: application/json\r\nContent-Length: ", json.size(),
                      "\r\n\r\n", json);
}

// Books one answer as it comes.
class Answer {
 public:
  Answer(steady_clock::time_point due, LoadResult* result) : due_(due), result_(result) {}

  // True once all of it has come. An event is never cut by the chunks' framing.
  bool Take(std::string_view bytes) {
    text_ += bytes;
    if (status_ == 0 && text_.size() >= 12) (void)absl::SimpleAtoi(text_.substr(9, 3), &status_);
    if (status_ != 0 && status_ != 200) return absl::StrContains(text_, "\r\n\r\n{");
    bool done = false;
    for (size_t at = 0; (at = text_.find("data: ")) != std::string::npos;) {
      const size_t end = text_.find("\n\n", at);
      if (end == std::string::npos) break;
      done = OnEvent(std::string_view(text_).substr(at + 6, end - at - 6)) || done;
      text_.erase(0, end + 2);
    }
    return done && absl::StrContains(text_, "0\r\n\r\n");
  }

  void Book(bool whole) {
    if (!whole || status_ != 200) {
      result_->errors[status_ == 503 ? 14 : status_ == 429 ? 8 : 2].fetch_add(1);
      if (status_ == 503 || status_ == 429) {
        result_->refusal.Add(SecondsBetween(due_, steady_clock::now()));
      }
      absl::MutexLock lock(&result_->mutex);
      if (result_->first_error.empty()) result_->first_error = text_.substr(0, 400);
      return;
    }
    result_->end_to_end.Add(SecondsBetween(due_, steady_clock::now()));
    const int64_t tokens = usage_.value("completion_tokens", int64_t{0});
    if (tokens > 1) {
      result_->per_output_token.Add(SecondsBetween(first_, last_) /
                                    static_cast<double>(tokens - 1));
    }
    result_->completed.fetch_add(1);
    result_->prompt_tokens.fetch_add(usage_.value("prompt_tokens", int64_t{0}));
    result_->completion_tokens.fetch_add(tokens);
    result_->machine_ns.fetch_add(usage_["cost_details"].value("machine_ns", int64_t{0}));
    if (!usage_["cost_nanousd"].is_number()) return;
    result_->cost_nanousd.fetch_add(usage_["cost_nanousd"].get<int64_t>());
    result_->priced.fetch_add(1);
  }

 private:
  // True for the last.
  bool OnEvent(std::string_view event) {
    if (event == "[DONE]") return true;
    if (absl::StrContains(std::string(event), "\"choices\":[]")) {
      usage_ = Json::parse(event)["usage"];
      return false;
    }
    const steady_clock::time_point now = steady_clock::now();
    if (first_ == steady_clock::time_point()) {
      first_ = now;
      result_->time_to_first_token.Add(SecondsBetween(due_, now));
    } else {
      result_->inter_token.Add(SecondsBetween(last_, now));
    }
    last_ = now;
    return false;
  }

  const steady_clock::time_point due_;
  LoadResult* const result_;
  std::string text_;
  int status_ = 0;
  steady_clock::time_point first_;
  steady_clock::time_point last_;
  Json usage_ = Json::object();
};

}  // namespace

class HttpLoad::Impl {
 public:
  Impl(std::string host, tcp::endpoint server)
      : host_(std::move(host)),
        server_(std::move(server)),
        work_(io_.get_executor()),
        thread_([this] { io_.run(); }) {}

  ~Impl() {
    asio::post(io_, [this] {
      idle_.clear();
      work_.reset();
    });
    thread_.join();
  }

  void Start(const v1::GenerateRequest& request, steady_clock::time_point due, LoadResult* result,
             OpenCalls* open) {
    std::string text = RequestText(request, host_);
    asio::co_spawn(
        io_,
        [this, text = std::move(text), due, result, open]() -> asio::awaitable<void> {
          return Run(text, due, result, open);
        },
        asio::detached);
  }

 private:
  asio::awaitable<void> Run(std::string text, steady_clock::time_point due, LoadResult* result,
                            OpenCalls* open) {
    Answer answer(due, result);
    error_code error;
    tcp::socket socket(io_);
    if (!idle_.empty()) {
      socket = std::move(idle_.back());
      idle_.pop_back();
    } else {
      co_await socket.async_connect(server_, Into(error));
      error_code ignored;
      socket.set_option(tcp::no_delay(true), ignored);
    }
    if (!error) co_await asio::async_write(socket, asio::buffer(text), Into(error));
    bool whole = false;
    std::vector<char> bytes(kReadBytes);
    while (!error && !whole) {
      const size_t count = co_await socket.async_read_some(asio::buffer(bytes), Into(error));
      whole = answer.Take({bytes.data(), count});
    }
    answer.Book(whole);
    if (whole) idle_.push_back(std::move(socket));
    open->Leave();
  }

  const std::string host_;
  const tcp::endpoint server_;
  asio::io_context io_{1};
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  std::vector<tcp::socket> idle_;
  std::thread thread_;
};

HttpLoad::HttpLoad(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpLoad::~HttpLoad() = default;

absl::StatusOr<std::unique_ptr<HttpLoad>> HttpLoad::Make(const std::string& address) {
  const size_t colon = address.rfind(':');
  int port = 0;
  error_code error;
  const asio::ip::address host = asio::ip::make_address(address.substr(0, colon), error);
  if (colon == std::string::npos || error || !absl::SimpleAtoi(address.substr(colon + 1), &port)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--http is \"", address, "\"; give IP:PORT, as 127.0.0.1:8000"));
  }
  return std::unique_ptr<HttpLoad>(new HttpLoad(
      std::make_unique<Impl>(address, tcp::endpoint(host, static_cast<uint16_t>(port)))));
}

void HttpLoad::Start(const v1::GenerateRequest& request, std::chrono::steady_clock::time_point due,
                     LoadResult* result, OpenCalls* open) {
  impl_->Start(request, due, result, open);
}

}  // namespace tuppence
