#include "service/http_upload.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio/post.hpp>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "model/sha256.h"
#include "model/utf8.h"
#include "service/batch_input.h"
#include "service/file_store.h"
#include "service/http_files.h"
#include "service/http_handlers.h"
#include "service/http_multipart.h"
#include "service/rpc_status.h"

namespace tuppence {
namespace {

namespace asio = boost::asio;

constexpr size_t kPieceBytes = 64 << 10;
constexpr size_t kFieldBytesMax = 4096;
constexpr size_t kFilenameBytesMax = 255;
constexpr int64_t kUploadRetryMs = 1000;

// Of this process.
std::atomic<int> uploads_now = 0;

absl::Status DiskFailure(const char* what) {
  return absl::UnavailableError(
      absl::StrCat("the file could not be ", what, " (", std::strerror(errno),
                   "); nothing of it is kept: try again later, or tell the operator"));
}

// The file on its way: what is not Kept is taken away again.
class FileOnItsWay {
 public:
  // hashed: the content's hash is wanted.
  FileOnItsWay(FileStore* files, bool hashed)
      : files_(*files), id_(FileStore::DrawId(kFileIdPrefix)) {
    if (hashed) hash_.emplace();
  }
  ~FileOnItsWay() {
    if (file_ >= 0) close(file_);
    if (kept_ || !begun_) return;
    unlink(files_.PathOf(id_).c_str());
    files_.GiveBack(bytes_);
  }

  FileOnItsWay(const FileOnItsWay&) = delete;
  FileOnItsWay& operator=(const FileOnItsWay&) = delete;

  absl::Status Begin() {
    file_ = open(path().c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    begun_ = file_ >= 0;
    return begun_ ? absl::OkStatus() : DiskFailure("begun");
  }
  absl::Status Write(std::string_view bytes) {
    const int64_t size = static_cast<int64_t>(bytes.size());
    if (bytes_ + size > kFileBytesMax) {
      return InvalidFields({{"file", absl::StrCat("has more than ", kFileBytesMax,
                                                  " bytes; split it into several")}});
    }
    if (absl::Status taken = files_.TakeBytes(size); !taken.ok()) return taken;
    bytes_ += size;
    if (hash_.has_value()) hash_->Add(bytes);
    while (!bytes.empty()) {
      const ssize_t written = write(file_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return DiskFailure("written");
      bytes.remove_prefix(static_cast<size_t>(written));
    }
    return absl::OkStatus();
  }
  // Slow: it waits for the disk.
  absl::Status Sync() { return fsync(file_) == 0 ? absl::OkStatus() : DiskFailure("synced"); }
  void Keep() { kept_ = true; }

  const std::string& id() const { return id_; }
  std::string path() const { return files_.PathOf(id_); }
  int64_t bytes() const { return bytes_; }
  // Of the content and what else was asked of the file. Once.
  std::string HashWith(const std::string& rest) {
    hash_->Add(rest);
    return hash_->Finish();
  }

 private:
  FileStore& files_;
  std::optional<Sha256> hash_;
  const std::string id_;
  int file_ = -1;
  bool begun_ = false;
  bool kept_ = false;
  int64_t bytes_ = 0;
};

// The form of an upload: `file` and `purpose`, in any order.
class UploadForm final : public MultipartSink {
 public:
  explicit UploadForm(FileOnItsWay* file) : file_(file) {}

  absl::Status BeginPart(const MultipartPart& part) override {
    part_ = part;
    if (part.name != "file") return absl::OkStatus();
    if (filename_.has_value()) return InvalidFields({{"file", "came twice; send one"}});
    if (!part.is_file) return InvalidFields({{"file", "is no file; send it as one"}});
    AppendValidUtf8(part.filename.substr(0, kFilenameBytesMax), &filename_.emplace());
    return file_->Begin();
  }
  absl::Status PartBytes(std::string_view bytes) override {
    if (part_.name == "file") return file_->Write(bytes);
    field_ += bytes;
    if (field_.size() <= kFieldBytesMax) return absl::OkStatus();
    return InvalidFields({{part_.name.substr(0, 64),
                           absl::StrCat("has more than ", kFieldBytesMax, " bytes; shorten it")}});
  }
  absl::Status EndPart() override {
    const std::string value = std::exchange(field_, "");
    if (part_.name == "purpose") purpose_ = value;
    if (!absl::StartsWith(part_.name, "expires_after")) return absl::OkStatus();
    asks_expiry_ = true;
    if (part_.name == "expires_after[anchor]") anchor_ = value;
    // What is no number is no time either, which Check says.
    if (part_.name == "expires_after[seconds]" && !absl::SimpleAtoi(value, &expires_seconds_)) {
      expires_seconds_ = 0;
    }
    return absl::OkStatus();
  }
  absl::Status Check() const {
    if (!filename_.has_value()) {
      return InvalidFields({{"file", "is missing; send it as a part of that name"}});
    }
    if (asks_expiry_) {
      const std::string fault = ExpiryFault(anchor_, expires_seconds_);
      if (!fault.empty()) return InvalidFields({{"expires_after", fault}});
    }
    if (purpose_ == "batch") return absl::OkStatus();
    return InvalidFields({{"purpose", "is not \"batch\", the one that there is; give it"}});
  }
  const std::string& filename() const { return *filename_; }
  int64_t expires_seconds() const { return expires_seconds_; }  // 0: nothing is asked

 private:
  FileOnItsWay* const file_;
  MultipartPart part_;
  std::string field_;
  std::optional<std::string> filename_;
  std::string purpose_;
  bool asks_expiry_ = false;
  std::string anchor_;
  int64_t expires_seconds_ = 0;
};

// The whole file is looked at, one at a time in this process: a set of custom_ids is some 30 MB.
absl::StatusOr<BatchCount> CheckContent(FileOnItsWay* file) {
  static absl::Mutex one_at_a_time(absl::kConstInit);
  if (absl::Status synced = file->Sync(); !synced.ok()) return synced;
  absl::MutexLock lock(&one_at_a_time);
  absl::StatusOr<BatchCount> count =
      CheckBatchInput(file->path(), {.lines_max = kFileLinesMax, .name = "the file"});
  if (count.ok()) return count;
  return RefusalStatus(count.status().code(), std::string(count.status().message()),
                       Because(reason::kMalformedMessage));
}

// The whole content into a file of the tenant's. *replayed: its key made it before.
absl::StatusOr<StoredFile> Keep(const ServiceParts& parts, const CallIdentity& identity,
                                const UploadForm& form, FileOnItsWay* file, bool* replayed) {
  const absl::StatusOr<BatchCount> count = CheckContent(file);
  if (!count.ok()) return count.status();
  StoredFile stored;
  stored.id = file->id();
  stored.tenant = identity.tenant;
  stored.purpose = "batch";
  stored.filename = form.filename();
  stored.bytes = file->bytes();
  stored.lines = count->lines;
  stored.created_unix_seconds = parts.clock->UtcNs() / 1'000'000'000;
  stored.expires_unix_seconds =
      parts.files->ExpiryOf(stored.created_unix_seconds, form.expires_seconds());
  if (const std::string& key = identity.idempotency_key; !key.empty()) {
    stored.key.name = key;
    stored.key.sha256 = file->HashWith(absl::StrCat("\n", form.expires_seconds(), form.filename()));
  }
  absl::StatusOr<StoredFile> added = parts.files->Add(stored);
  *replayed = added.ok() && added->id != stored.id;
  if (added.ok() && !*replayed) file->Keep();
  return added;
}

// On a thread of its own, for it waits for the disk and the connection's thread has others to
// serve.
asio::awaitable<absl::StatusOr<StoredFile>> KeepAside(const ServiceParts& parts,
                                                      const CallIdentity& identity,
                                                      const UploadForm& form, FileOnItsWay* file,
                                                      HttpExchange& exchange, bool* replayed) {
  const auto done = std::make_shared<Signal>(exchange.executor());
  absl::StatusOr<StoredFile> kept = absl::UnknownError("");
  std::thread aside([&, done] {
    kept = Keep(parts, identity, form, file, replayed);
    asio::post(exchange.executor(), [done] { done->Set(); });
  });
  co_await done->Wait();
  aside.join();
  co_return kept;
}

// The body into the form. *broken: it broke off, and the connection answers for itself.
asio::awaitable<absl::Status> ReadForm(const std::string& boundary, UploadForm* form,
                                       HttpExchange& exchange, bool* broken) {
  MultipartReader reader(boundary, form);
  std::vector<char> piece(kPieceBytes);
  while (true) {
    const int64_t bytes = co_await exchange.ReadBody(piece.data(), piece.size());
    *broken = bytes < 0;
    if (*broken) co_return absl::CancelledError("the upload broke off");
    if (bytes == 0) break;
    absl::Status fed = reader.Feed(std::string_view(piece.data(), static_cast<size_t>(bytes)));
    if (!fed.ok()) co_return fed;
  }
  absl::Status whole = reader.Finish();
  co_return whole.ok() ? form->Check() : whole;
}

// From the body's first byte to a file of the tenant's.
asio::awaitable<absl::StatusOr<StoredFile>> Store(const ServiceParts& parts,
                                                  const CallIdentity& identity,
                                                  HttpExchange& exchange, bool* broken,
                                                  bool* replayed) {
  const absl::StatusOr<std::string> boundary =
      MultipartReader::BoundaryOf(HeaderOf(exchange.request(), "Content-Type").value);
  if (!boundary.ok()) co_return boundary.status();
  FileOnItsWay file(parts.files, /*hashed=*/!identity.idempotency_key.empty());
  UploadForm form(&file);
  const absl::Status read = co_await ReadForm(*boundary, &form, exchange, broken);
  if (!read.ok()) co_return read;
  co_return co_await KeepAside(parts, identity, form, &file, exchange, replayed);
}

absl::Status TooManyUploads() {
  Refusal refusal = Because(reason::kQueueFull);
  refusal.retry_after_ms = kUploadRetryMs;
  return RefusalStatus(absl::StatusCode::kUnavailable,
                       absl::StrCat("the service takes ", kUploadsMax,
                                    " uploads at once, and they are at work; try again"),
                       refusal);
}

class UploadPlace {
 public:
  UploadPlace() : taken_(uploads_now.fetch_add(1) < kUploadsMax) {}
  ~UploadPlace() { uploads_now.fetch_sub(1); }
  UploadPlace(const UploadPlace&) = delete;
  UploadPlace& operator=(const UploadPlace&) = delete;
  bool taken() const { return taken_; }

 private:
  const bool taken_;
};

}  // namespace

asio::awaitable<void> UploadFile(const HttpRoutes& routes, HttpExchange& exchange) {
  const ServiceParts& parts = routes.parts();
  const int64_t received_ns = parts.clock->NowNs();
  CallIdentity identity;
  absl::Status status = ReadCaller(parts, exchange.request(), &identity);
  if (status.ok()) status = CheckKeepsFiles(parts);
  if (status.ok()) status = TakeOneRequest(parts, identity);
  const UploadPlace place;
  if (status.ok() && !place.taken()) status = TooManyUploads();
  HttpReply reply;
  bool broken = false;
  bool replayed = false;
  if (status.ok()) {
    const absl::StatusOr<StoredFile> stored =
        co_await Store(parts, identity, exchange, &broken, &replayed);
    status = stored.status();
    if (stored.ok()) reply.body = DumpJson(OpenAiFile(*stored));
    if (replayed) reply.headers.emplace_back(kReplayedKey, "true");
  }
  CountCall(parts, Method::kFiles, identity, status, received_ns);
  if (broken) {
    HttpHeaders headers;
    AddOwnHeaders(parts, identity, &headers);
    exchange.OnBroken(std::move(headers));
    co_return;
  }
  if (!status.ok()) reply = ErrorReply(status);
  AddOwnHeaders(parts, identity, &reply.headers);
  co_await exchange.Reply(std::move(reply));
}

}  // namespace tuppence
