// ServiceProcess: a `tuppence serve` that a test has started, on ports that were free, and the
// calls that tests make to it. Used by the tests of this folder.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "service/client.h"
#include "tests/end_to_end/process.h"

namespace tuppence {

inline const std::string kBinary = TUPPENCE_BINARY;
inline const std::string kDemoModel =
    std::string(TUPPENCE_SOURCE_DIR) + "/deploy/demo_model/checkpoint";
inline const std::string kOrderRecord =
    "Order 48213: status shipped; carrier DHL; expected 14 March 2026; items 2; total 39.90 EUR";
inline const std::string kOrderQuestion = "Where is my order 48213?";

class ServiceProcess {
 public:
  // `tuppence serve --model MODEL FLAGS...`; `wrapper` stands before it, for strace. Returns when
  // /readyz says 200, or the program has ended, or a minute is over: check ready().
  explicit ServiceProcess(const std::string& model, const std::vector<std::string>& flags = {},
                          const std::vector<std::string>& wrapper = {});

  bool ready() const { return ready_; }
  std::string address() const;
  std::string admin_address() const;
  Process& process() { return *process_; }
  pid_t server_pid() const;  // the service's own, under a wrapper too
  // Everything it has said, and how it ended, for a failed expectation.
  std::string Story() const;

  std::unique_ptr<Client> MakeClient(double timeout_seconds = 30) const;

  // The status line of GET `path` on the admin port; "" when nobody answers.
  std::string AdminStatus(const std::string& path) const;
  // The same of POST on the OpenAI port, with a body of JSON.
  std::string HttpStatus(const std::string& path, const std::string& body) const;

 private:
  int PortAfter(const std::string& words) const;

  std::unique_ptr<Process> process_;
  bool wrapped_ = false;
  bool ready_ = false;
};

// A greedy answer to the order question, with `max_tokens` at most.
v1::GenerateRequest OrderRequest(int max_tokens = 100);

struct Answered {
  absl::Status status;
  std::string request_id;
  std::string text;
  std::vector<int32_t> token_ids;
  v1::GenerateResponse last;
};
Answered Ask(Client* client, const v1::GenerateRequest& request);

}  // namespace tuppence
