// http_files: /v1/files and /v1/batches, but for uploads (http_upload): OpenAI's objects of what
// file_store and batch_jobs have. Called by http_routes. Where the service keeps no files, every
// one of them is NOT_FOUND and says so.
#pragma once

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "service/file_store.h"
#include "service/http_exchange.h"
#include "service/http_routes.h"
#include "service/service_parts.h"

namespace tuppence {

absl::StatusOr<nlohmann::ordered_json> ListFiles(const ServiceParts& parts,
                                                 const CallIdentity& identity,
                                                 const HttpRequest& request);
absl::StatusOr<nlohmann::ordered_json> GetFile(const ServiceParts& parts,
                                               const CallIdentity& identity,
                                               const HttpRequest& request);
absl::StatusOr<nlohmann::ordered_json> DeleteFile(const ServiceParts& parts,
                                                  const CallIdentity& identity,
                                                  const HttpRequest& request);
boost::asio::awaitable<void> SendFileContent(const HttpRoutes& routes, HttpExchange& exchange);

absl::StatusOr<HttpReply> CreateBatch(const ServiceParts& parts, const CallIdentity& identity,
                                      const HttpRequest& request);
absl::StatusOr<nlohmann::ordered_json> ListBatches(const ServiceParts& parts,
                                                   const CallIdentity& identity,
                                                   const HttpRequest& request);
absl::StatusOr<nlohmann::ordered_json> GetBatch(const ServiceParts& parts,
                                                const CallIdentity& identity,
                                                const HttpRequest& request);
absl::StatusOr<nlohmann::ordered_json> CancelBatch(const ServiceParts& parts,
                                                   const CallIdentity& identity,
                                                   const HttpRequest& request);

// NOT_FOUND where this service keeps no files.
absl::Status CheckKeepsFiles(const ServiceParts& parts);
nlohmann::ordered_json OpenAiFile(const StoredFile& file);
// What is wrong with the age that a caller asks for a file; "": nothing.
std::string ExpiryFault(const std::string& anchor, int64_t seconds);

}  // namespace tuppence
