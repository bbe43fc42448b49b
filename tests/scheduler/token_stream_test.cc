#include "scheduler/token_stream.h"

#include <atomic>
#include <thread>

#include "gtest/gtest.h"
#include "scheduler/inbox.h"

namespace tuppence {
namespace {

class CountingReader : public StreamReader {
 public:
  void OnReady() override { ++calls; }
  std::atomic<int32_t> calls = 0;
};

std::shared_ptr<TokenStream> NewStream(int32_t choices = 1, TokenStream::Limits limits = {}) {
  return std::make_shared<TokenStream>(choices, limits);
}

// As the engine does at the end of a step.
void Post(StreamNotifier& notifier, const std::shared_ptr<TokenStream>& stream) {
  std::vector<std::shared_ptr<TokenStream>> ready = {stream};
  notifier.Post(&ready);
  notifier.NotifyAll();
}

TEST(TokenStreamTest, TakeGivesEverythingThatGathered) {
  const auto stream = NewStream(2);
  stream->Append(0, 11, "ab", nullptr);
  stream->Append(1, 21, "x", nullptr);
  stream->Append(0, 12, "c", nullptr);
  stream->FinishChoice(0, "!", FinishReason::kStop);
  StreamDelta delta;
  ASSERT_TRUE(stream->Take(&delta));
  EXPECT_EQ(delta.choices[0].text, "abc!");
  EXPECT_EQ(delta.choices[0].token_ids, (std::vector<int32_t>{11, 12}));
  EXPECT_EQ(delta.choices[0].finish_reason, FinishReason::kStop);
  EXPECT_EQ(delta.choices[1].text, "x");
  EXPECT_FALSE(delta.end.has_value());
  EXPECT_FALSE(stream->Take(&delta)) << "once";
  EXPECT_TRUE(delta.choices[0].empty());
}

TEST(TokenStreamTest, TheEndComesOnceAndLast) {
  const auto stream = NewStream();
  stream->Append(0, 1, "", nullptr);
  RequestEnd end;
  end.usage.completion_tokens = 1;
  stream->End(std::move(end));
  StreamDelta delta;
  ASSERT_TRUE(stream->Take(&delta));
  ASSERT_TRUE(delta.end.has_value());
  EXPECT_EQ(delta.end->usage.completion_tokens, 1);
  EXPECT_FALSE(stream->Take(&delta));
}

TEST(TokenStreamTest, AChoiceIsFullByTokensOrByBytes) {
  const auto stream = NewStream(2, {.tokens_max = 2, .text_bytes_max = 5});
  EXPECT_TRUE(stream->Append(0, 1, "a", nullptr).has_room);
  EXPECT_FALSE(stream->Append(0, 2, "b", nullptr).has_room);
  EXPECT_FALSE(stream->Append(1, 1, "hello", nullptr).has_room);
  StreamDelta delta;
  stream->Take(&delta);
  EXPECT_TRUE(stream->HasRoom(0));
  EXPECT_TRUE(stream->HasRoom(1));
}

TEST(TokenStreamTest, TakingFromAFullStreamWakesTheEngine) {
  Inbox inbox(1, 0);
  const auto stream = NewStream(1, {.tokens_max = 1});
  stream->Attach(&inbox, nullptr);
  StreamDelta delta;
  stream->Append(0, 1, "", nullptr);
  EXPECT_FALSE(inbox.TakeRoom());
  stream->Take(&delta);
  EXPECT_TRUE(inbox.TakeRoom());
  stream->Take(&delta);
  EXPECT_FALSE(inbox.TakeRoom()) << "it was not full any more";
}

TEST(TokenStreamTest, ACancelWakesTheEngineUntilTheEnd) {
  Inbox inbox(1, 0);
  const auto stream = NewStream();
  stream->Attach(&inbox, nullptr);
  EXPECT_FALSE(stream->cancelled());
  stream->Cancel();
  EXPECT_TRUE(stream->cancelled());
  EXPECT_TRUE(inbox.TakeCancelled());
  stream->End({});
  stream->Cancel();
  EXPECT_FALSE(inbox.TakeCancelled()) << "the engine may be gone by now";
}

TEST(TokenStreamTest, TheReaderHearsOnceBetweenTwoTakes) {
  StreamNotifier notifier;
  const auto stream = NewStream();
  CountingReader reader;
  stream->SetReader(&reader);
  EXPECT_TRUE(stream->Append(0, 1, "", nullptr).notice);
  EXPECT_FALSE(stream->Append(0, 2, "", nullptr).notice);
  Post(notifier, stream);
  Post(notifier, stream);  // even if it were posted twice
  EXPECT_EQ(reader.calls, 1);
  StreamDelta delta;
  stream->Take(&delta);
  Post(notifier, stream);
  EXPECT_EQ(reader.calls, 1) << "nothing more has gathered";
  EXPECT_TRUE(stream->Append(0, 3, "", nullptr).notice);
  Post(notifier, stream);
  EXPECT_EQ(reader.calls, 2);
  stream->SetReader(nullptr);
}

TEST(TokenStreamTest, AReaderSetLateHearsOfWhatGatheredBefore) {
  const auto notifier = std::make_shared<StreamNotifier>();
  const auto stream = NewStream();
  stream->Attach(nullptr, notifier);
  stream->Append(0, 1, "", nullptr);
  Post(*notifier, stream);  // nobody to tell
  CountingReader reader;
  stream->SetReader(&reader);
  notifier->NotifyAll();
  EXPECT_EQ(reader.calls, 1);
  stream->SetReader(nullptr);
}

class ClearingReader : public StreamReader {
 public:
  explicit ClearingReader(TokenStream* stream) : stream_(stream) {}
  void OnReady() override { stream_->SetReader(nullptr); }

 private:
  TokenStream* stream_;
};

TEST(TokenStreamTest, AReaderMayClearItselfInsideItsCall) {
  StreamNotifier notifier;
  const auto stream = NewStream();
  ClearingReader reader(stream.get());
  stream->SetReader(&reader);
  stream->Append(0, 1, "", nullptr);
  Post(notifier, stream);
}

class SlowReader : public StreamReader {
 public:
  void OnReady() override {
    inside = true;
    while (!may_go) std::this_thread::yield();
    done = true;
  }
  std::atomic<bool> inside = false;
  std::atomic<bool> may_go = false;
  std::atomic<bool> done = false;
};

TEST(TokenStreamTest, ClearingTheReaderWaitsForACallInProgress) {
  StreamNotifier notifier;
  notifier.Start();
  const auto stream = NewStream();
  SlowReader reader;
  stream->SetReader(&reader);
  stream->Append(0, 1, "", nullptr);
  std::vector<std::shared_ptr<TokenStream>> ready = {stream};
  notifier.Post(&ready);
  while (!reader.inside) std::this_thread::yield();
  std::thread other([&] { reader.may_go = true; });
  stream->SetReader(nullptr);
  EXPECT_TRUE(reader.done);
  other.join();
  notifier.Stop();
}

}  // namespace
}  // namespace tuppence
