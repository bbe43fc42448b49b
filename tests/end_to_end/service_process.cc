// See service_process.h.
#include "tests/end_to_end/service_process.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>

namespace tuppence {
namespace {

constexpr double kStartSeconds = 60;  // of a machine that is busy with other builds

std::string HttpStatusLine(int port, const std::string& question) {
  const int connection = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string answer;
  if (connect(connection, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
      write(connection, question.data(), question.size()) ==
          static_cast<ssize_t>(question.size())) {
    char bytes[512];
    const ssize_t count = read(connection, bytes, sizeof(bytes));
    if (count > 0) answer.assign(bytes, count);
  }
  close(connection);
  return answer.substr(0, answer.find("\r\n"));
}

}  // namespace

ServiceProcess::ServiceProcess(const std::string& model, const std::vector<std::string>& flags,
                               const std::vector<std::string>& wrapper)
    : wrapped_(!wrapper.empty()) {
  std::vector<std::string> arguments = wrapper;
  for (const std::string& word :
       {kBinary, std::string("serve"), std::string("--model"), model, std::string("--port"),
        std::string("0"), std::string("--admin-port"), std::string("0")}) {
    arguments.push_back(word);
  }
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  process_ = std::make_unique<Process>(arguments);
  WaitUntil(kStartSeconds, [this] {
    ready_ = AdminStatus("/readyz").find(" 200 ") != std::string::npos;
    return ready_ || process_->Wait(0).has_value();
  });
}

std::string ServiceProcess::address() const {
  return "127.0.0.1:" + std::to_string(PortAfter("gRPC on 127.0.0.1:"));
}

pid_t ServiceProcess::server_pid() const {
  if (!wrapped_) return process_->pid();
  const std::string pid = std::to_string(process_->pid());
  return std::atoi(ReadFile("/proc/" + pid + "/task/" + pid + "/children").c_str());
}

std::string ServiceProcess::Story() const {
  const std::optional<int> exit_code = process_->Wait(0);
  return "the service " +
         (exit_code ? "ended with " + std::to_string(*exit_code) : std::string("runs")) + "\n" +
         process_->Errors();
}

std::unique_ptr<Client> ServiceProcess::MakeClient(double timeout_seconds) const {
  ClientOptions options;
  options.address = address();
  options.timeout_seconds = timeout_seconds;
  return Client::Make(options).value();
}

std::string ServiceProcess::AdminStatus(const std::string& path) const {
  const int port = PortAfter("admin HTTP on 127.0.0.1:");
  return port == 0 ? ""
                   : HttpStatusLine(port, "GET " + path + " HTTP/1.0\r\nHost: localhost\r\n\r\n");
}

std::string ServiceProcess::HttpStatus(const std::string& path, const std::string& body) const {
  return HttpStatusLine(PortAfter("OpenAI-compatible HTTP on 127.0.0.1:"),
                        "POST " + path +
                            " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                            "Content-Type: application/json\r\nContent-Length: " +
                            std::to_string(body.size()) + "\r\n\r\n" + body);
}

std::string ServiceProcess::admin_address() const {
  return "127.0.0.1:" + std::to_string(PortAfter("admin HTTP on 127.0.0.1:"));
}

// The service was told to take any free port; its log names the one it took.
int ServiceProcess::PortAfter(const std::string& words) const {
  const std::string log = process_->Errors();
  const size_t at = log.find(words);
  return at == std::string::npos ? 0 : std::atoi(log.c_str() + at + words.size());
}

v1::GenerateRequest OrderRequest(int max_tokens) {
  v1::GenerateRequest request;
  v1::ChatMessage* system = request.mutable_chat()->add_messages();
  system->set_role(v1::ROLE_SYSTEM);
  system->set_content(kOrderRecord);
  v1::ChatMessage* question = request.mutable_chat()->add_messages();
  question->set_role(v1::ROLE_USER);
  question->set_content(kOrderQuestion);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_max_tokens(max_tokens);
  request.mutable_output()->set_token_ids(true);
  return request;
}

Answered Ask(Client* client, const v1::GenerateRequest& request) {
  Answered answered;
  answered.status = client->Generate(request, [&](const v1::GenerateResponse& message) {
    if (message.has_start()) answered.request_id = message.start().request_id();
    for (const v1::Choice& choice : message.choices()) {
      answered.text += choice.text();
      answered.token_ids.insert(answered.token_ids.end(), choice.token_ids().begin(),
                                choice.token_ids().end());
    }
    answered.last = message;
  });
  return answered;
}

}  // namespace tuppence
