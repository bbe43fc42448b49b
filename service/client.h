// A thin gRPC client of tuppence.v1: what chat, score, batch and explain need, and the channel that
// serve_bench uses. Turns gRPC's status with its google.rpc details into a text for people. Holds
// gRPC's own headers behind this one, so that the commands compile without them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "scheduler/request.h"
#include "tuppence/v1/tuppence.pb.h"

namespace grpc {
class Channel;
class Status;
}  // namespace grpc

namespace tuppence {

struct ClientOptions {
  std::string address = "127.0.0.1:8033";
  // PEM files. Any of them turns TLS on; without tls_ca the system's roots are trusted.
  std::string tls_ca;
  std::string tls_cert;  // with tls_key: who we are, where the service asks (mTLS)
  std::string tls_key;
  std::string key;             // shown as a bearer key; "": none
  double timeout_seconds = 0;  // the deadline of each call; 0: none
};

// A channel to the service; connects with the first call. Channels made with different `lane`
// values have connections of their own: one connection is one thread's work at a time.
// Errors: a PEM file that cannot be read, or a certificate without its key.
absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const ClientOptions& options,
                                                           int lane = 0);

// The same code; the message is the service's, and below it one line for each detail: fields,
// quotas, when to retry, the request's id. Reason and retry time are its Refusal.
absl::Status FromGrpc(const grpc::Status& status);

// What was used and what it cost, where the service said so beside an error.
std::optional<RequestEnd> BookedOf(const absl::Status& status);

class Client {
 public:
  static absl::StatusOr<std::unique_ptr<Client>> Make(const ClientOptions& options);
  // Over a channel that is there already, as an in-process one is. key: to show; "": none.
  Client(std::shared_ptr<grpc::Channel> channel, double timeout_seconds, std::string key);
  ~Client();

  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Calls on_message for each message as it comes; returns when the stream has ended. name: the
  // caller's own for the request (x-request-id), which is its idempotency key too, so that the same
  // request under the same name is answered as before and billed once; "": none.
  absl::Status Generate(const v1::GenerateRequest& request,
                        const std::function<void(const v1::GenerateResponse&)>& on_message,
                        const std::string& name = "");
  absl::Status Tokenize(const v1::TokenizeRequest& request, v1::TokenizeResponse* response);
  absl::Status Detokenize(const v1::DetokenizeRequest& request, v1::DetokenizeResponse* response);
  absl::Status GetModel(v1::GetModelResponse* response);
  absl::Status GetUsage(const std::string& request_id, v1::GetUsageResponse* response);

  // Ends the call in progress, which then returns CANCELLED. Any thread. False when there is none.
  bool Cancel();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tuppence
