// RawConnection: bytes to a port without a gRPC client in between, and the few HTTP/2 frames that a
// request takes. For the tests of what a well-behaved client would never send.
#pragma once

#include <cstdint>
#include <string>

namespace tuppence {

class RawConnection {
 public:
  explicit RawConnection(int port);
  ~RawConnection();

  void Write(const std::string& bytes);
  bool WaitForBytes();     // anything at all, within ten seconds
  bool WaitForClose();     // reads until the other side closes, at most ten seconds
  std::string ReadSome();  // what is there, once something is; "" when it closed or nothing came
  std::string ReadAll();   // until it closes
  void GoSilent();         // from now on nothing that arrives is acknowledged, nor answered
  void Reset();            // closes with RST, as a process that dies does

 private:
  int fd_;
};

// A gRPC request's headers, each odd on demand.
struct OddHeaders {
  std::string method = "POST";
  std::string scheme = "http";
  std::string te = "trailers";
  std::string content_type = "application/grpc";
  int filler_bytes = 0;   // of one more header
  std::string body = {};  // the message, without its five bytes in front
};

// Preface, settings, one HEADERS frame (with CONTINUATION as needed) and one DATA frame.
std::string Http2Request(const std::string& path, const OddHeaders& odd);

}  // namespace tuppence
