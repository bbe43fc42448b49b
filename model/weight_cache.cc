#include "model/weight_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <functional>
#include <set>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/strict_json.h"

namespace tuppence {
namespace {

using Json = nlohmann::json;

constexpr char kMagic[17] = "TUPPENCE WEIGHTS";
constexpr int kVersion = 1;
constexpr int64_t kPreambleBytes = 32;
constexpr int64_t kHeaderBytesMax = int64_t{64} << 20;
constexpr int64_t kAlignment = 4096;
constexpr int64_t kPieceBytes = int64_t{8} << 20;
constexpr int kThreadsMax = 4;  // beyond it memory is the limit

int64_t RoundUp(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }
int64_t Pieces(int64_t bytes) { return (bytes + kPieceBytes - 1) / kPieceBytes; }

// Calls work(piece, first byte, bytes) for every piece, on some threads, until one fails.
absl::Status ForPieces(int64_t bytes,
                       const std::function<absl::Status(int64_t, int64_t, int64_t)>& work) {
  const int64_t pieces = Pieces(bytes);
  std::atomic<int64_t> next{0};
  const int wanted = static_cast<int>(
      std::min<int64_t>({kThreadsMax, pieces, std::max(1u, std::thread::hardware_concurrency())}));
  std::vector<absl::Status> failed(wanted);
  const auto run = [&](int thread) {
    for (int64_t piece = next++; piece < pieces && failed[thread].ok(); piece = next++) {
      const int64_t first = piece * kPieceBytes;
      failed[thread] = work(piece, first, std::min(kPieceBytes, bytes - first));
    }
  };
  std::vector<std::jthread> threads;
  for (int thread = 1; thread < wanted; ++thread) threads.emplace_back(run, thread);
  if (wanted > 0) run(0);
  threads.clear();
  for (const absl::Status& status : failed) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

std::vector<uint64_t> SumsOf(std::span<const std::byte> bytes) {
  std::vector<uint64_t> sums(Pieces(static_cast<int64_t>(bytes.size())));
  (void)ForPieces(static_cast<int64_t>(bytes.size()),
                  [&](int64_t piece, int64_t first, int64_t count) {
                    sums[piece] = XXH3_64bits(bytes.data() + first, count);
                    return absl::OkStatus();
                  });
  return sums;
}

absl::Status Failed(const std::string& path, const char* what) {
  const int error = errno;
  return absl::UnavailableError(absl::StrCat(path, ": ", what, ": ", std::strerror(error)));
}

absl::Status Damaged(const std::string& path, const std::string& what) {
  return absl::DataLossError(absl::StrCat(path, ": ", what, "; the cache is damaged"));
}

// A file that takes its name once it is whole, and is gone otherwise.
class NewFile {
 public:
  explicit NewFile(std::string path)
      : path_(std::move(path)), partial_(absl::StrCat(path_, ".", getpid(), ".partial")) {}
  ~NewFile() {
    if (descriptor_ >= 0) close(descriptor_);
    if (!named_) unlink(partial_.c_str());
  }
  NewFile(const NewFile&) = delete;

  absl::Status Create() {
    descriptor_ = open(partial_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    return descriptor_ < 0 ? Failed(partial_, "cannot be made") : absl::OkStatus();
  }
  absl::Status WriteAt(int64_t offset, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t written = pwrite(descriptor_, bytes.data(), bytes.size(), offset);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return Failed(partial_, "cannot be written");
      bytes = bytes.subspan(written);
      offset += written;
    }
    return absl::OkStatus();
  }
  absl::Status Finish() {
    if (fsync(descriptor_) != 0) return Failed(partial_, "cannot be brought to the disk");
    if (rename(partial_.c_str(), path_.c_str()) != 0) return Failed(path_, "cannot be named");
    named_ = true;
    return absl::OkStatus();
  }

 private:
  const std::string path_, partial_;
  int descriptor_ = -1;
  bool named_ = false;
};

}  // namespace

absl::StatusOr<std::string> WeightCacheKey(const WeightSource& source, const WeightFormat& format,
                                           const std::string& layout_id) {
  std::set<std::string> files;
  for (const SourceTensor& tensor : source.tensors()) files.insert(tensor.file);
  std::string key = absl::StrCat("version ", kVersion, "; layout ", layout_id, "; type ",
                                 static_cast<int>(format.type), ", group ", format.group);
  for (const std::string& file : files) {
    struct stat found = {};
    if (stat(file.c_str(), &found) != 0 || !S_ISREG(found.st_mode)) {
      return absl::NotFoundError(absl::StrCat(source.place(), " is not made of files"));
    }
    absl::StrAppend(&key, "; ", file.substr(file.rfind('/') + 1), " ", found.st_size, " bytes, ",
                    found.st_mtim.tv_sec, ".", found.st_mtim.tv_nsec);
  }
  return key;
}

absl::Status WriteWeightCache(const std::string& path, const std::string& key,
                              const std::vector<CachedMatrix>& matrices) {
  Json list = Json::array();
  int64_t offset = 0;  // from the first matrix
  for (const CachedMatrix& matrix : matrices) {
    const auto bytes = static_cast<int64_t>(matrix.bytes.size());
    list.push_back({{"name", matrix.name},
                    {"offset", offset},
                    {"bytes", bytes},
                    {"sums", SumsOf(matrix.bytes)}});
    offset += RoundUp(bytes);
  }
  const std::string header = Json{{"key", key}, {"matrices", std::move(list)}}.dump();
  const uint64_t numbers[2] = {header.size(), XXH3_64bits(header.data(), header.size())};
  std::string begin(kMagic, 16);
  begin.append(reinterpret_cast<const char*>(numbers), sizeof(numbers));
  begin += header;

  NewFile file(path);
  if (absl::Status status = file.Create(); !status.ok()) return status;
  absl::Status status = file.WriteAt(0, std::as_bytes(std::span(begin)));
  int64_t at = RoundUp(static_cast<int64_t>(begin.size()));
  for (const CachedMatrix& matrix : matrices) {
    if (!status.ok()) return status;
    status = file.WriteAt(at, matrix.bytes);
    at += RoundUp(static_cast<int64_t>(matrix.bytes.size()));
  }
  return status.ok() ? file.Finish() : status;
}

absl::StatusOr<WeightCache> WeightCache::Open(const std::string& path, const std::string& key) {
  absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return file.status();
  WeightCache cache(*std::move(file));
  if (absl::Status status = cache.ReadHeader(key); !status.ok()) return status;
  return cache;
}

absl::Status WeightCache::ReadHeader(const std::string& key) {
  const std::string& path = file_.path();
  char magic[16];
  uint64_t numbers[2];
  if (file_.bytes() < kPreambleBytes) return Damaged(path, "it ends in its first 32 bytes");
  if (absl::Status status = file_.ReadAt(0, 16, magic); !status.ok()) return status;
  if (absl::Status status = file_.ReadAt(16, 16, numbers); !status.ok()) return status;
  if (std::memcmp(magic, kMagic, 16) != 0) return Damaged(path, "it does not begin as a cache");
  const auto bytes = static_cast<int64_t>(numbers[0]);
  if (bytes < 0 || bytes > std::min(kHeaderBytesMax, file_.bytes() - kPreambleBytes)) {
    return Damaged(path, absl::StrCat("its header is said to have ", numbers[0], " bytes"));
  }
  std::string text(bytes, '\0');
  if (absl::Status status = file_.ReadAt(kPreambleBytes, bytes, text.data()); !status.ok()) {
    return status;
  }
  if (XXH3_64bits(text.data(), text.size()) != numbers[1]) {
    return Damaged(path, "its header has another sum");
  }
  // What has its sum was written by WriteWeightCache: only its version is open.
  const absl::StatusOr<Json> header = ParseStrictJson(text);
  if (!header.ok() || header->value("key", "") != key) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, " was made of ", header.ok() ? header->value("key", "?") : "?", "; this is ", key));
  }
  const int64_t begin = RoundUp(kPreambleBytes + bytes);
  for (const Json& matrix : header->at("matrices")) {
    Place& place = places_[matrix.at("name").get<std::string>()];
    place.offset = begin + matrix.at("offset").get<int64_t>();
    place.bytes = matrix.at("bytes").get<int64_t>();
    place.sums = matrix.at("sums").get<std::vector<uint64_t>>();
  }
  return absl::OkStatus();
}

absl::Status WeightCache::Read(const std::string& name, std::span<std::byte> out) const {
  const auto found = places_.find(name);
  if (found == places_.end()) return Damaged(file_.path(), absl::StrCat(name, " is missing"));
  const Place& place = found->second;
  const auto bytes = static_cast<int64_t>(out.size());
  if (place.bytes != bytes || static_cast<int64_t>(place.sums.size()) != Pieces(bytes)) {
    return Damaged(file_.path(), absl::StrCat(name, " has ", place.bytes, " bytes, not ", bytes));
  }
  return ForPieces(bytes, [&](int64_t piece, int64_t first, int64_t count) -> absl::Status {
    std::byte* const to = out.data() + first;
    if (!file_.ReadAt(place.offset + first, count, to).ok()) {
      return Damaged(file_.path(), absl::StrCat("it ends within ", name));
    }
    if (XXH3_64bits(to, count) != place.sums[piece]) {
      return Damaged(file_.path(), absl::StrCat("a part of ", name, " has another sum"));
    }
    return absl::OkStatus();
  });
}

}  // namespace tuppence
