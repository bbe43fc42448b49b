#include "tests/service/raw_connection.h"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "model/check.h"

namespace tuppence {
namespace {

constexpr int kPatienceMs = 10'000;
constexpr size_t kFrameBytesMax = 16384;

enum FrameType : char { kData = 0, kHeaders = 1, kSettings = 4, kContinuation = 9 };
constexpr char kEndStream = 1;
constexpr char kEndHeaders = 4;

std::string Frame(FrameType type, char flags, char stream, const std::string& payload) {
  std::string frame;
  for (const int shift : {16, 8, 0}) frame.push_back(static_cast<char>(payload.size() >> shift));
  frame.push_back(type);
  frame.push_back(flags);
  frame.append(3, '\0').push_back(stream);
  return frame.append(payload);
}

// HPACK: a string's length in 7 bits and more, then the string, not Huffman coded.
void AppendString(const std::string& text, std::string* block) {
  size_t length = text.size();
  if (length < 127) {
    block->push_back(static_cast<char>(length));
  } else {
    block->push_back(127);
    for (length -= 127; length >= 128; length >>= 7) {
      block->push_back(static_cast<char>(0x80 | (length & 0x7F)));
    }
    block->push_back(static_cast<char>(length));
  }
  block->append(text);
}

void AppendHeader(const std::string& name, const std::string& value, std::string* block) {
  block->push_back(0);  // literal, never indexed, new name
  AppendString(name, block);
  AppendString(value, block);
}

}  // namespace

RawConnection::RawConnection(int port) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  CHECK_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
}

RawConnection::~RawConnection() {
  if (fd_ >= 0) close(fd_);
}

void RawConnection::Write(const std::string& bytes) {
  size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t count = send(fd_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (count <= 0) return;  // the other side has had enough
    sent += static_cast<size_t>(count);
  }
}

// The kernel drops each packet that comes for this socket before TCP sees it.
void RawConnection::GoSilent() {
  sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
  const sock_fprog program = {.len = 1, .filter = &drop};
  CHECK_EQ(setsockopt(fd_, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)), 0);
}

bool RawConnection::WaitForBytes() {
  pollfd poll_fd = {fd_, POLLIN, 0};
  return poll(&poll_fd, 1, kPatienceMs) == 1;
}

bool RawConnection::WaitForClose() {
  char buffer[4096];
  while (WaitForBytes()) {
    if (recv(fd_, buffer, sizeof(buffer), 0) <= 0) return true;
  }
  return false;
}

std::string RawConnection::ReadSome() {
  char buffer[16384];
  if (!WaitForBytes()) return "";
  const ssize_t count = recv(fd_, buffer, sizeof(buffer), 0);
  return count <= 0 ? "" : std::string(buffer, static_cast<size_t>(count));
}

std::string RawConnection::ReadAll() {
  std::string all;
  for (std::string some = ReadSome(); !some.empty(); some = ReadSome()) all += some;
  return all;
}

void RawConnection::Reset() {
  const linger at_once = {1, 0};
  setsockopt(fd_, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
  close(fd_);
  fd_ = -1;
}

std::string Http2Request(const std::string& path, const OddHeaders& odd) {
  std::string block;
  AppendHeader(":method", odd.method, &block);
  AppendHeader(":scheme", odd.scheme, &block);
  AppendHeader(":path", path, &block);
  AppendHeader(":authority", "localhost", &block);
  AppendHeader("content-type", odd.content_type, &block);
  AppendHeader("te", odd.te, &block);
  if (odd.filler_bytes > 0) {
    AppendHeader("x-filler", std::string(static_cast<size_t>(odd.filler_bytes), 'f'), &block);
  }
  std::string bytes = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  bytes += Frame(kSettings, 0, 0, "");
  const size_t first = std::min(block.size(), kFrameBytesMax);
  const bool whole = first == block.size();
  bytes += Frame(kHeaders, whole ? kEndHeaders : 0, 1, block.substr(0, first));
  if (!whole) bytes += Frame(kContinuation, kEndHeaders, 1, block.substr(first));
  std::string message(1, '\0');
  for (const int shift : {24, 16, 8, 0}) {
    message.push_back(static_cast<char>(odd.body.size() >> shift));
  }
  message += odd.body;
  return bytes + Frame(kData, kEndStream, 1, message);
}

}  // namespace tuppence
