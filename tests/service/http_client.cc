#include "tests/service/http_client.h"

#include <cstdlib>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace tuppence {
namespace {

// Takes the chunks' contents out of their framing; `done` once the last was there.
std::string Dechunk(std::string_view bytes, size_t* used, bool* done) {
  std::string body;
  size_t at = 0;
  while (true) {
    const size_t line = bytes.find("\r\n", at);
    if (line == std::string_view::npos) break;
    const size_t size = std::strtoul(std::string(bytes.substr(at, line - at)).c_str(), nullptr, 16);
    if (bytes.size() < line + 2 + size + 2) break;
    body += bytes.substr(line + 2, size);
    at = line + 2 + size + 2;
    if (size > 0) continue;
    *done = true;
    break;
  }
  *used = at;
  return body;
}

struct Parsed {
  HttpAnswer answer;
  bool whole = false;
  size_t bytes = 0;
};

Parsed Parse(const std::string& bytes, bool head = false) {
  Parsed parsed;
  const size_t end = bytes.find("\r\n\r\n");
  if (end == std::string::npos) return parsed;
  const std::vector<std::string> lines = absl::StrSplit(bytes.substr(0, end), "\r\n");
  HttpAnswer& answer = parsed.answer;
  answer.status = std::atoi(lines[0].substr(lines[0].find(' ') + 1).c_str());
  for (size_t i = 1; i < lines.size(); ++i) {
    const std::pair<std::string, std::string> field =
        absl::StrSplit(lines[i], absl::MaxSplits(':', 1));
    answer.headers[absl::AsciiStrToLower(field.first)] =
        std::string(absl::StripAsciiWhitespace(field.second));
  }
  const std::string_view rest = std::string_view(bytes).substr(end + 4);
  size_t used = 0;
  if (head) {
    parsed.whole = true;
  } else if (answer.headers.count("transfer-encoding") > 0) {
    answer.body = Dechunk(rest, &used, &parsed.whole);
  } else {
    used = std::strtoul(answer.headers["content-length"].c_str(), nullptr, 10);
    parsed.whole = rest.size() >= used;
    answer.body = std::string(rest.substr(0, used));
  }
  parsed.bytes = end + 4 + used;
  return parsed;
}

}  // namespace

std::vector<std::string> HttpAnswer::events() const {
  std::vector<std::string> events;
  for (const absl::string_view event : absl::StrSplit(body, "\n\n", absl::SkipEmpty())) {
    events.emplace_back(event.substr(std::string_view("data: ").size()));
  }
  return events;
}

HttpAnswer ParseAnswer(const std::string& bytes) { return Parse(bytes).answer; }

void HttpClient::Send(const std::string& verb, const std::string& path,
                      const std::optional<std::string>& body, const Headers& headers) {
  head_ = verb == "HEAD";
  std::string text = absl::StrCat(verb, " ", path, " HTTP/1.1\r\n");
  for (const auto& [name, value] : headers) absl::StrAppend(&text, name, ": ", value, "\r\n");
  if (headers.count("Host") == 0) text += "Host: localhost\r\n";
  if (body.has_value()) {
    if (headers.count("Content-Type") == 0) text += "Content-Type: application/json\r\n";
    absl::StrAppend(&text, "Content-Length: ", body->size(), "\r\n");
  }
  connection_.Write(absl::StrCat(text, "\r\n", body.value_or("")));
}

HttpAnswer HttpClient::Receive() {
  while (true) {
    Parsed parsed = Parse(received_, head_);
    if (parsed.whole) {
      received_.erase(0, parsed.bytes);
      return parsed.answer;
    }
    const std::string more = connection_.ReadSome();
    if (more.empty()) return parsed.answer;
    received_ += more;
  }
}

bool HttpClient::WaitForEvents(size_t count) {
  while (Parse(received_).answer.events().size() < count) {
    const std::string more = connection_.ReadSome();
    if (more.empty()) return false;
    received_ += more;
  }
  return true;
}

HttpAnswer Ask(int port, const std::string& verb, const std::string& path,
               const std::optional<std::string>& body, const HttpClient::Headers& headers) {
  HttpClient client(port);
  client.Send(verb, path, body, headers);
  return client.Receive();
}

}  // namespace tuppence
