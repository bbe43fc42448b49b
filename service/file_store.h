// FileStore: the folder of --files-dir: files that callers upload and download, and what is known
// of them and of the batches made with them. The one place where the service keeps prompts and
// answers on a disk, because their callers ask it to. Contents are plain files under names of our
// own, never the caller's; files.db beside them (SQLite) says whose they are, and what it does not
// know is taken away at the next start. Owner's eyes alone: folder 0700, files 0600.
//
// Made by serve, used by http_files, http_upload and batch_jobs. Any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

struct sqlite3;

namespace tuppence {

constexpr int64_t kFileBytesMax = 200'000'000;  // of one upload, as OpenAI has it
constexpr int64_t kFileLinesMax = 50'000;
constexpr int64_t kFilesMax = 10'000;
constexpr int64_t kExpirySecondsMin = 3600;  // of what a caller may ask, as OpenAI has it
constexpr int64_t kExpirySecondsMax = 30 * 24 * 3600;
constexpr char kFileIdPrefix[] = "file-";

// A caller's Idempotency-Key and the hash of what it asked: what is made under one is made once.
struct MakingKey {
  std::string name = {};  // "": none
  std::string sha256 = {};
};

struct StoredFile {
  std::string id = {};  // "file-" and 32 hexadecimal digits
  std::string tenant = {};
  std::string purpose = {};   // "batch", "batch_output"
  std::string filename = {};  // the caller's words
  int64_t bytes = 0;
  int64_t lines = 0;
  int64_t created_unix_seconds = 0;
  int64_t expires_unix_seconds = 0;  // 0: it stays until it is deleted
  MakingKey key = {};                // written, and not read again
};

// A batch as it is stored; batch_record knows what the text says.
struct StoredBatch {
  std::string id;
  std::string tenant;
  bool active = true;  // there is work left
  std::string record;
  MakingKey key = {};  // of its first Put alone
};

// One page of a list.
struct PageAsk {
  int64_t limit = 20;
  std::string after;  // an id: what follows it; "": from the beginning
  bool newest_first = true;
  std::string purpose;  // of files; "": any
};
template <typename Item>
struct Page {
  std::vector<Item> items;
  bool has_more = false;
};

class FileStore {
 public:
  // Makes the folder where it is not there. ALREADY_EXISTS: another process has it.
  // FAILED_PRECONDITION: a newer version made it. UNAVAILABLE: it cannot be written. bytes_max: of
  // all contents together. keep_seconds: no new file stays longer; 0: any time.
  static absl::StatusOr<std::unique_ptr<FileStore>> Open(const std::string& folder,
                                                         int64_t bytes_max,
                                                         int64_t keep_seconds = 0);
  ~FileStore();

  static std::string DrawId(const char* prefix);  // prefix and 128 random bits
  // Where the content of a file of ours lies.
  std::string PathOf(const std::string& id) const { return folder_ + "/" + id; }

  // Takes so many bytes of what there may be in all. RESOURCE_EXHAUSTED where there is no room.
  absl::Status TakeBytes(int64_t bytes);
  void GiveBack(int64_t bytes);

  // When a file of this age ends; asked_seconds: what its caller wishes, 0: nothing.
  int64_t ExpiryOf(int64_t created_unix_seconds, int64_t asked_seconds) const;

  // The content is whole, synced, in its place and paid for in bytes: from now on it is a file, and
  // is returned. Where its key made one before, that is, and this is none. ALREADY_EXISTS: the key
  // made one of another content.
  absl::StatusOr<StoredFile> Add(const StoredFile& file);
  // None: the tenant has no such file.
  absl::StatusOr<std::optional<StoredFile>> Find(const std::string& tenant, const std::string& id);
  absl::StatusOr<Page<StoredFile>> List(const std::string& tenant, const PageAsk& ask);
  // Gives its bytes back. False: the tenant has no such file.
  absl::StatusOr<bool> Delete(const std::string& tenant, const std::string& id);
  // Those whose time is up.
  absl::StatusOr<std::vector<StoredFile>> Expired(int64_t unix_seconds);

  // Stores the batch as it is now; `files` become files in the same transaction.
  absl::Status Put(const StoredBatch& batch, const std::vector<StoredFile>& files = {});
  absl::StatusOr<std::optional<StoredBatch>> FindBatch(const std::string& tenant,
                                                       const std::string& id);
  // The one that the key made. ALREADY_EXISTS: it stands for another.
  absl::StatusOr<std::optional<StoredBatch>> FindMadeBatch(const std::string& tenant,
                                                           const MakingKey& key);
  absl::StatusOr<Page<StoredBatch>> ListBatches(const std::string& tenant, const PageAsk& ask);
  // Oldest first.
  absl::StatusOr<std::vector<StoredBatch>> ActiveBatches();
  // Takes away contents that are neither files nor `known`, and counts the bytes of the rest. Once,
  // before the first upload.
  absl::Status Sweep(const std::vector<std::string>& known);

  int64_t bytes() const;

 private:
  FileStore(std::string folder, int64_t bytes_max, int64_t keep_seconds, int lock)
      : folder_(std::move(folder)),
        bytes_max_(bytes_max),
        keep_seconds_(keep_seconds),
        lock_(lock) {}

  absl::Status OpenDatabase();
  absl::Status Failure() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Execute(const char* sql) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CountFiles() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::optional<StoredFile>> FindMade(const StoredFile& file)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Insert(const StoredFile& file) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status InTransaction(const std::function<absl::Status()>& body)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string folder_;
  const int64_t bytes_max_;
  const int64_t keep_seconds_;
  const int lock_;  // held with flock until this process ends
  mutable absl::Mutex mutex_;
  sqlite3* database_ ABSL_GUARDED_BY(mutex_) = nullptr;
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace tuppence
