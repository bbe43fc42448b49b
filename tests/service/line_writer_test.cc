// The lines of the request log reach a file whole and in order, and nobody waits for its reader.
#include "service/line_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"

namespace tuppence {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

class LineWriterTest : public ::testing::Test {
 protected:
  LineWriterTest() {
    signal(SIGPIPE, SIG_IGN);  // as the service does
    int ends[2];
    EXPECT_EQ(pipe(ends), 0);
    reader_ = ends[0];
    file_ = ends[1];
    writer_.emplace(file_);
  }
  ~LineWriterTest() override {
    End();
    if (reader_ >= 0) close(reader_);
  }
  void End() {
    writer_.reset();
    if (file_ >= 0) close(std::exchange(file_, -1));
  }
  std::string ReadSome() {
    std::array<char, 65536> bytes;
    const ssize_t count = read(reader_, bytes.data(), bytes.size());
    return {bytes.data(), count > 0 ? static_cast<size_t>(count) : 0};
  }
  std::string ReadToEnd() {
    std::string all;
    for (std::string some; !(some = ReadSome()).empty();) all += some;
    return all;
  }

  int reader_ = -1;
  int file_ = -1;
  std::optional<LineWriter> writer_;
};

TEST_F(LineWriterTest, ALineComesByItself) {
  writer_->Write("one");
  EXPECT_EQ(ReadSome(), "one\n");
}

TEST_F(LineWriterTest, WhatWaitsAtTheEndIsWritten) {
  writer_->Write("one");
  writer_->Write("");
  writer_->Write("three");
  End();
  EXPECT_EQ(ReadToEnd(), "one\n\nthree\n");
}

TEST_F(LineWriterTest, LinesOfManyThreadsStayWholeAndInTheirOrder) {
  constexpr int kThreads = 4;
  constexpr int kLines = 2000;
  std::string all;
  std::thread reads([&] { all = ReadToEnd(); });
  std::vector<std::thread> writers;
  for (int thread = 0; thread < kThreads; ++thread) {
    writers.emplace_back([this, thread] {
      for (int i = 0; i < kLines; ++i) writer_->Write(absl::StrCat(thread, " ", i));
    });
  }
  for (std::thread& writer : writers) writer.join();
  End();
  reads.join();
  std::vector<int> next(kThreads, 0);
  const std::vector<std::string> lines = absl::StrSplit(all, '\n', absl::SkipEmpty());
  for (const std::string& line : lines) {
    const size_t thread = static_cast<size_t>(line[0] - '0');
    ASSERT_LT(thread, next.size());
    EXPECT_EQ(line, absl::StrCat(thread, " ", next[thread]++));
  }
  EXPECT_THAT(next, ElementsAre(kLines, kLines, kLines, kLines));
}

TEST_F(LineWriterTest, WithoutAReaderLinesAreLostAndTheirNumberIsTold) {
  const std::string line(1023, 'x');
  constexpr int kLines = 3 * LineWriter::kWaitingBytesMax / 1024;
  for (int i = 0; i < kLines; ++i) writer_->Write(line);  // returns, though nobody reads
  std::string all;
  std::thread reads([&] { all = ReadToEnd(); });
  while (writer_->waiting_bytes() > 0) std::this_thread::yield();
  writer_->Write("after");
  End();
  reads.join();
  std::vector<std::string> lines = absl::StrSplit(all, '\n', absl::SkipEmpty());
  ASSERT_FALSE(lines.empty());
  EXPECT_EQ(lines.back(), "after");
  lines.pop_back();
  int64_t written = 0;
  int64_t lost = 0;
  for (const std::string& one : lines) {
    int64_t more = 0;
    if (one == line) {
      ++written;
    } else {
      ASSERT_EQ(sscanf(one.c_str(), "{\"event\":\"lines_lost\",\"lines\":%ld}", &more), 1) << one;
      lost += more;
    }
  }
  EXPECT_GT(lost, 0);
  EXPECT_EQ(written + lost, kLines);
}

TEST_F(LineWriterTest, AReaderThatIsGoneHoldsNobodyUp) {
  close(std::exchange(reader_, -1));
  for (int i = 0; i < 100; ++i) writer_->Write("into the void");
  End();
}

TEST_F(LineWriterTest, AReaderThatTakesNothingDoesNotHoldUpTheEnd) {
  for (int i = 0; i < 4096; ++i) writer_->Write(std::string(1023, 'x'));
  End();
  EXPECT_THAT(ReadToEnd(), SizeIs(fcntl(reader_, F_GETPIPE_SZ))) << "as much as a pipe holds";
}

}  // namespace
}  // namespace tuppence
