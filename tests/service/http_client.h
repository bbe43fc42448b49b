// HttpClient: one HTTP/1.1 connection as a test uses it: requests with any header and body, answers
// read back with their chunks and events taken apart. For everything that a well-behaved client
// sends; raw_connection is for the rest. Used by the tests of the HTTP door.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/service/raw_connection.h"

namespace tuppence {

constexpr char kChat[] = "/v1/chat/completions";  // what most tests ask

struct HttpAnswer {
  int status = 0;                              // 0: none came
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;                            // without chunk framing

  nlohmann::json json() const { return nlohmann::json::parse(body); }
  nlohmann::json error() const { return json().at("error"); }
  // The data of each server-sent event, in order.
  std::vector<std::string> events() const;
};

// An answer's bytes; as much of it as is there.
HttpAnswer ParseAnswer(const std::string& bytes);

class HttpClient {
 public:
  explicit HttpClient(int port) : connection_(port) {}

  using Headers = std::multimap<std::string, std::string>;
  // Sends; with a body as JSON where no other type is given.
  void Send(const std::string& verb, const std::string& path,
            const std::optional<std::string>& body = std::nullopt, const Headers& headers = {});
  HttpAnswer Receive();  // the next answer, whole
  // Reads until so many events have come; false when the answer ended before.
  bool WaitForEvents(size_t count);
  RawConnection& connection() { return connection_; }

 private:
  RawConnection connection_;
  std::string received_;
  bool head_ = false;  // the last request was HEAD, whose answer has no body
};

// One request on a connection of its own.
HttpAnswer Ask(int port, const std::string& verb, const std::string& path,
               const std::optional<std::string>& body = std::nullopt,
               const HttpClient::Headers& headers = {});

}  // namespace tuppence
