#include "service/http_answer.h"

#include <boost/asio/post.hpp>
#include <memory>
#include <utility>

#include "scheduler/clock.h"
#include "scheduler/token_stream.h"
#include "service/call_registry.h"
#include "service/generation.h"
#include "service/http_call.h"
#include "service/openai_answer.h"
#include "service/openai_errors.h"

namespace tuppence {
namespace {

namespace asio = boost::asio;

class Completion final : public StreamReader, public WatchedCall {
 public:
  Completion(const ServiceParts& parts, HttpExchange& exchange, OpenAiKind kind)
      : parts_(parts),
        exchange_(exchange),
        kind_(kind),
        ready_(std::make_shared<Signal>(exchange.executor())),
        generation_(parts, kind == OpenAiKind::kChat ? Method::kChat : Method::kCompletion, this) {}

  asio::awaitable<void> Run();

  // On the notifier's thread.
  void OnReady() override {
    asio::post(exchange_.executor(), [ready = ready_] { ready->Set(); });
  }
  // The connection's own sweep ends writes that nobody takes.
  int64_t writing_since_ns() const override { return 0; }
  void CutOff() override {}
  int64_t completion_tokens() const override { return generation_.completion_tokens(); }

 private:
  absl::Status Accept();
  void AddHeaders(HttpHeaders* headers) const {
    AddOwnHeaders(parts_, generation_.identity, headers);
    if (generation_.is_replay()) headers->emplace_back(kReplayedKey, "true");
  }
  asio::awaitable<void> Deliver();
  asio::awaitable<void> End(const RequestEnd& end);

  const ServiceParts& parts_;
  HttpExchange& exchange_;
  const OpenAiKind kind_;
  bool stream_ = false;
  bool began_ = false;  // the first event, and so the status, went out
  std::unique_ptr<AnswerWriter> writer_;
  std::shared_ptr<Signal> ready_;  // shared with what is posted
  StreamDelta delta_;
  Generation generation_;  // last: from its construction on the registry looks at the others
};

asio::awaitable<void> Completion::Run() {
  const absl::Status accepted = Accept();
  exchange_.DropRequest();
  if (!accepted.ok()) {
    generation_.Close(accepted, nullptr);
    HttpReply reply = ErrorReply(accepted);
    AddHeaders(&reply.headers);
    co_await exchange_.Reply(std::move(reply));
    co_return;
  }
  exchange_.OnGone([this] { generation_.GiveUp(); });
  co_await Deliver();
  exchange_.OnGone(nullptr);
}

absl::Status Completion::Accept() {
  const HttpRequest& request = exchange_.request();
  CallIdentity* identity = &generation_.identity;
  if (absl::Status status = ReadIdentity(request, parts_, identity); !status.ok()) return status;
  const absl::StatusOr<int64_t> deadline_ns = ReadDeadline(request, parts_.limits, *parts_.clock);
  if (!deadline_ns.ok()) return deadline_ns.status();
  if (absl::Status place = generation_.CheckPlace(); !place.ok()) return place;
  absl::StatusOr<OpenAiAsk> asked = ReadOpenAi(kind_, request.body(), parts_.limits);
  if (!asked.ok()) return asked.status();
  stream_ = asked->stream;
  // Ids in and out need no tokenizer.
  asked->ask.no_text = asked->token_ids && parts_.model->tokenizer == nullptr;
  const int32_t choices = asked->ask.sampling.choices;
  absl::Status started = generation_.Start(std::move(asked->ask), *deadline_ns, this);
  if (!started.ok()) return started;
  AnswerHead head = HeadOf(*parts_.model);
  head.kind = kind_;
  head.request_id = generation_.answer_id();
  head.created_unix_seconds = generation_.created_utc_ns() / 1'000'000'000;
  head.stream = stream_;
  head.include_usage = asked->include_usage;
  head.token_ids = asked->token_ids;
  writer_ = std::make_unique<AnswerWriter>(head, choices);
  return absl::OkStatus();
}

// Until the answer has ended: what a caller does not take stays in the stream, which pauses this
// request and no other.
asio::awaitable<void> Completion::Deliver() {
  while (true) {
    if (!generation_.Take(&delta_)) {
      co_await ready_->Wait();
      continue;
    }
    if (delta_.end.has_value()) {
      co_await End(*delta_.end);
      co_return;
    }
    if (!stream_) {
      writer_->Gather(delta_);
      continue;
    }
    std::string events = writer_->Events(delta_);
    if (events.empty()) continue;
    HttpHeaders headers;
    if (!std::exchange(began_, true)) AddHeaders(&headers);
    if (!co_await exchange_.WriteEvents(std::move(events), /*last=*/false, headers)) {
      generation_.GiveUp();
    }
  }
}

// Booked, counted and logged first: who has the answer finds all of that done. An answer that
// failed before anything of it was sent is an error like any other, and may be tried again; what
// it took until then is told beside it.
asio::awaitable<void> Completion::End(const RequestEnd& end) {
  HttpHeaders headers;
  if (!began_) AddHeaders(&headers);
  std::string body;
  if (stream_ && (began_ || end.status.ok())) {
    body = writer_->Events(delta_);
    body += writer_->LastEvents(end);
    generation_.Close(end.status, &end);
    co_await exchange_.WriteEvents(std::move(body), /*last=*/true, headers);
    co_return;
  }
  writer_->Gather(delta_);
  HttpReply reply = end.status.ok() ? HttpReply{.body = writer_->Whole(end)}
                                    : ErrorReply(end.status, UsageObject(end));
  generation_.Close(end.status, &end);
  reply.headers.insert(reply.headers.end(), headers.begin(), headers.end());
  co_await exchange_.Reply(std::move(reply));
}

}  // namespace

asio::awaitable<void> AnswerCompletion(const ServiceParts& parts, HttpExchange& exchange,
                                       OpenAiKind kind) {
  Completion completion(parts, exchange, kind);
  co_await completion.Run();
}

}  // namespace tuppence
