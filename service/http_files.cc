#include "service/http_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "model/sha256.h"
#include "model/strict_json.h"
#include "service/batch_jobs.h"
#include "service/http_handlers.h"
#include "service/json_reader.h"
#include "service/rpc_status.h"

namespace tuppence {
namespace {

namespace asio = boost::asio;
using Json = nlohmann::ordered_json;

constexpr int64_t kBatchesOfPageMax = 100;
constexpr int64_t kBatchesOfPage = 20;
constexpr size_t kMetadataEntriesMax = 16;  // as OpenAI has it
constexpr size_t kMetadataKeyBytesMax = 64;
constexpr size_t kMetadataValueBytesMax = 512;

absl::Status NoSuchFile(const std::string& id) {
  return RefusalStatus(absl::StatusCode::kNotFound,
                       absl::StrCat("there is no file ", id.substr(0, 64),
                                    " of yours; GET /v1/files lists those that there are"),
                       Because(reason::kFileNotFound));
}

absl::StatusOr<StoredFile> FindFile(const ServiceParts& parts, const CallIdentity& identity,
                                    const std::string& id) {
  if (absl::Status keeps = CheckKeepsFiles(parts); !keeps.ok()) return keeps;
  auto file = parts.files->Find(identity.tenant, id);
  if (!file.ok()) return file.status();
  if (!file->has_value()) return NoSuchFile(id);
  return **std::move(file);
}

// limit, after, order and purpose of a list's query; others mean nothing.
absl::StatusOr<PageAsk> ReadPageAsk(const HttpRequest& request, int64_t limit, int64_t limit_max) {
  PageAsk ask;
  ask.limit = limit;
  const std::string_view query = QueryOf(request);
  for (const absl::string_view entry :
       absl::StrSplit(absl::string_view(query.data(), query.size()), '&', absl::SkipEmpty())) {
    const std::pair<std::string, std::string> pair = absl::StrSplit(entry, absl::MaxSplits('=', 1));
    const auto& [name, value] = pair;
    if (name == "limit") {
      if (!absl::SimpleAtoi(value, &ask.limit) || ask.limit < 1 || ask.limit > limit_max) {
        return InvalidFields({{"limit", absl::StrCat("is no whole number from 1 to ", limit_max,
                                                     "; give one, or leave it out")}});
      }
    } else if (name == "after") {
      ask.after = value;
    } else if (name == "order") {
      if (value != "asc" && value != "desc") {
        return InvalidFields({{"order", "is neither asc nor desc; give one of them"}});
      }
      ask.newest_first = value == "desc";
    } else if (name == "purpose") {
      ask.purpose = value;
    }
  }
  return ask;
}

template <typename Item>
Json ListJson(const Page<Item>& page, Json (*object)(const Item&)) {
  Json list = {{"object", "list"},
               {"first_id", nullptr},
               {"last_id", nullptr},
               {"has_more", page.has_more},
               {"data", Json::array()}};
  for (const Item& item : page.items) list["data"].push_back(object(item));
  if (list["data"].empty()) return list;
  list["first_id"] = list["data"].front()["id"];
  list["last_id"] = list["data"].back()["id"];
  return list;
}

// {"name": "text", ...}, small.
void ReadMetadata(const nlohmann::json& value, JsonReader* read, Json* metadata) {
  if (!value.is_object() || value.size() > kMetadataEntriesMax) {
    read->Wrong(value, "metadata",
                absl::StrCat("an object of at most ", kMetadataEntriesMax, " texts"));
    return;
  }
  *metadata = Json::object();
  for (const auto& [key, entry] : value.items()) {
    if (key.size() > kMetadataKeyBytesMax || !entry.is_string() ||
        entry.get_ref<const std::string&>().size() > kMetadataValueBytesMax) {
      read->Wrong(entry, absl::StrCat("metadata[", key.substr(0, 16), "]"),
                  absl::StrCat("a text of at most ", kMetadataValueBytesMax,
                               " bytes, under a name of at most ", kMetadataKeyBytesMax));
      return;
    }
    (*metadata)[key] = entry.get<std::string>();
  }
}

// {"anchor": "created_at", "seconds": 86400}
void ReadExpiry(const nlohmann::json& value, const std::string& field, JsonReader* read,
                int64_t* seconds) {
  if (!value.is_object()) {
    read->Wrong(value, field, "an object with anchor and seconds");
    return;
  }
  std::string anchor;
  int32_t asked = 0;
  for (const auto& [name, entry] : value.items()) {
    const std::string entry_field = absl::StrCat(field, ".", name);
    if (name == "anchor") {
      if (!read->String(entry, entry_field, &anchor)) return;
    } else if (name == "seconds") {
      if (!read->Int(entry, entry_field, &asked)) return;
    } else {
      read->Unknown(entry_field);
    }
  }
  *seconds = asked;
  const std::string fault = ExpiryFault(anchor, asked);
  if (!fault.empty()) read->Refuse(field, fault);
}

absl::StatusOr<BatchAskedFor> ReadBatchAsk(const HttpRequest& request, const CallLimits& limits) {
  const absl::StatusOr<nlohmann::json> json = ParseStrictJson(request.body());
  if (!json.ok() || !json->is_object()) {
    return RefusalStatus(
        absl::StatusCode::kInvalidArgument,
        absl::StrCat("the request's body: ", json.ok() ? "an object {...} is expected"
                                                       : std::string(json.status().message())),
        Because(reason::kMalformedMessage));
  }
  BatchAskedFor asked;
  std::vector<FieldViolation> violations;
  JsonReader read(&violations);
  read.strict = limits.strict;
  std::string window;
  for (const auto& [name, value] : json->items()) {
    if (name == "input_file_id") {
      read.String(value, name, &asked.input_file_id);
    } else if (name == "endpoint") {
      read.String(value, name, &asked.endpoint);
    } else if (name == "completion_window") {
      read.String(value, name, &window);
    } else if (name == "metadata") {
      if (!value.is_null()) ReadMetadata(value, &read, &asked.metadata);
    } else if (name == "output_expires_after") {
      if (!value.is_null()) ReadExpiry(value, name, &read, &asked.output_expires_seconds);
    } else {
      read.Unknown(name);
    }
  }
  if (violations.empty() && asked.endpoint != "/v1/chat/completions" &&
      asked.endpoint != "/v1/completions") {
    read.Refuse("endpoint", "is none of /v1/chat/completions and /v1/completions; give one");
  }
  if (violations.empty() && window != "24h") {
    read.Refuse("completion_window", "is not \"24h\", the one that there is; give it");
  }
  if (!violations.empty()) return InvalidFields(violations);
  Sha256 hash;
  hash.Add(json->dump());
  asked.key.sha256 = hash.Finish();
  return asked;
}

absl::StatusOr<MadeBatch> MakeBatch(const ServiceParts& parts, const CallIdentity& identity,
                                    const HttpRequest& request) {
  if (absl::Status keeps = CheckKeepsFiles(parts); !keeps.ok()) return keeps;
  auto asked = ReadBatchAsk(request, parts.limits);
  if (!asked.ok()) return asked.status();
  asked->key.name = identity.idempotency_key;
  return parts.jobs->Create(identity.tenant, *asked);
}

}  // namespace

absl::Status CheckKeepsFiles(const ServiceParts& parts) {
  if (parts.files != nullptr && parts.jobs != nullptr) return absl::OkStatus();
  return absl::NotFoundError(
      "this service keeps no files and runs no batches; start it with --files-dir DIR, or use "
      "`tuppence batch`");
}

std::string ExpiryFault(const std::string& anchor, int64_t seconds) {
  if (anchor != "created_at") return "has no anchor \"created_at\", the one that there is; give it";
  if (seconds >= kExpirySecondsMin && seconds <= kExpirySecondsMax) return "";
  return absl::StrCat("has no seconds from ", kExpirySecondsMin, " to ", kExpirySecondsMax,
                      "; give them, or leave it out");
}

Json OpenAiFile(const StoredFile& file) {
  const bool expires = file.expires_unix_seconds > 0;
  return {{"id", file.id},
          {"object", "file"},
          {"bytes", file.bytes},
          {"created_at", file.created_unix_seconds},
          {"expires_at", expires ? Json(file.expires_unix_seconds) : Json()},
          {"filename", file.filename},
          {"purpose", file.purpose},
          {"status", "processed"},
          {"status_details", nullptr}};
}

absl::StatusOr<Json> ListFiles(const ServiceParts& parts, const CallIdentity& identity,
                               const HttpRequest& request) {
  if (absl::Status keeps = CheckKeepsFiles(parts); !keeps.ok()) return keeps;
  const auto ask = ReadPageAsk(request, kFilesMax, kFilesMax);
  if (!ask.ok()) return ask.status();
  const auto page = parts.files->List(identity.tenant, *ask);
  if (!page.ok()) return page.status();
  return ListJson(*page, OpenAiFile);
}

absl::StatusOr<Json> GetFile(const ServiceParts& parts, const CallIdentity& identity,
                             const HttpRequest& request) {
  const auto file = FindFile(parts, identity, NameIn(request));
  if (!file.ok()) return file.status();
  return OpenAiFile(*file);
}

absl::StatusOr<Json> DeleteFile(const ServiceParts& parts, const CallIdentity& identity,
                                const HttpRequest& request) {
  const std::string id = NameIn(request);
  if (absl::Status found = FindFile(parts, identity, id).status(); !found.ok()) return found;
  if (const std::string batch = parts.jobs->ReaderOf(id); !batch.empty()) {
    return absl::FailedPreconditionError(absl::StrCat("the file is the input of ", batch,
                                                      ", which has not ended; cancel that first"));
  }
  const absl::StatusOr<bool> deleted = parts.files->Delete(identity.tenant, id);
  if (!deleted.ok()) return deleted.status();
  if (!*deleted) return NoSuchFile(id);
  return Json{{"id", id}, {"object", "file"}, {"deleted", true}};
}

asio::awaitable<void> SendFileContent(const HttpRoutes& routes, HttpExchange& exchange) {
  const ServiceParts& parts = routes.parts();
  const int64_t received_ns = parts.clock->NowNs();
  CallIdentity identity;
  absl::Status status = ReadCaller(parts, exchange.request(), &identity);
  const std::string id = NameIn(exchange.request());
  int file = -1;
  int64_t bytes = 0;
  if (status.ok()) {
    const auto found = FindFile(parts, identity, id);
    status = found.status();
    if (status.ok()) {
      bytes = found->bytes;
      file = open(parts.files->PathOf(id).c_str(), O_RDONLY | O_CLOEXEC);
      if (file < 0) status = NoSuchFile(id);
    }
  }
  CountCall(parts, Method::kFiles, identity, status, received_ns);
  HttpReply reply;
  if (!status.ok()) reply = ErrorReply(status);
  AddOwnHeaders(parts, identity, &reply.headers);
  if (file < 0) {
    co_await exchange.Reply(std::move(reply));
    co_return;
  }
  reply.content_type = "application/octet-stream";
  co_await exchange.ReplyFile(std::move(reply), file, bytes);
  close(file);
}

absl::StatusOr<HttpReply> CreateBatch(const ServiceParts& parts, const CallIdentity& identity,
                                      const HttpRequest& request) {
  const absl::StatusOr<MadeBatch> made = MakeBatch(parts, identity, request);
  if (!made.ok()) return made.status();
  HttpReply reply = {.body = DumpJson(OpenAiBatch(made->record))};
  if (made->replayed) reply.headers.emplace_back(kReplayedKey, "true");
  return reply;
}

absl::StatusOr<Json> ListBatches(const ServiceParts& parts, const CallIdentity& identity,
                                 const HttpRequest& request) {
  if (absl::Status keeps = CheckKeepsFiles(parts); !keeps.ok()) return keeps;
  auto ask = ReadPageAsk(request, kBatchesOfPage, kBatchesOfPageMax);
  if (!ask.ok()) return ask.status();
  ask->purpose.clear();
  const auto page = parts.jobs->List(identity.tenant, *ask);
  if (!page.ok()) return page.status();
  return ListJson(*page, OpenAiBatch);
}

absl::StatusOr<Json> GetBatch(const ServiceParts& parts, const CallIdentity& identity,
                              const HttpRequest& request) {
  if (absl::Status keeps = CheckKeepsFiles(parts); !keeps.ok()) return keeps;
  const auto batch = parts.jobs->Find(identity.tenant, NameIn(request));
  if (!batch.ok()) return batch.status();
  return OpenAiBatch(*batch);
}

absl::StatusOr<Json> CancelBatch(const ServiceParts& parts, const CallIdentity& identity,
                                 const HttpRequest& request) {
  if (absl::Status keeps = CheckKeepsFiles(parts); !keeps.ok()) return keeps;
  const auto batch = parts.jobs->Cancel(identity.tenant, NameIn(request));
  if (!batch.ok()) return batch.status();
  return OpenAiBatch(*batch);
}

}  // namespace tuppence
