#include "service/api_keys.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "model/check.h"
#include "model/strict_json.h"
#include "scheduler/clock.h"
#include "service/rpc_status.h"

namespace tuppence {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kPrefix = "tuppence-";
constexpr std::string_view kScheme = "bearer ";
constexpr size_t kIdChars = 8;
constexpr size_t kSecretBytes = 32;
constexpr size_t kKeysMax = 100'000;

KeyHash HashOf(std::string_view key) {
  KeyHash hash;
  CHECK_EQ(EVP_Digest(key.data(), key.size(), hash.data(), nullptr, EVP_sha256(), nullptr), 1);
  return hash;
}

std::string RandomBytes(size_t bytes) {
  std::string random(bytes, '\0');
  CHECK_EQ(RAND_bytes(reinterpret_cast<uint8_t*>(random.data()), static_cast<int>(bytes)), 1);
  return random;
}

std::optional<int64_t> TimeOf(const std::string& text) {
  absl::Time time;
  if (!absl::ParseTime("%Y-%m-%d", text, absl::UTCTimeZone(), &time, nullptr)) return std::nullopt;
  return absl::ToUnixNanos(time);
}

std::string TextAt(const Json& entry, const char* key) {
  const auto found = entry.find(key);
  return found != entry.end() && found->is_string() ? found->get<std::string>() : "";
}

absl::StatusOr<std::pair<std::string, ApiKey>> ReadKey(const Json& json, const std::string& where) {
  absl::Status keys = CheckKeys(json, where, {"id", "sha256", "tenant", "expires", "note"});
  if (!keys.ok()) return keys;
  const auto wrong = [&](const char* key, const char* allowed) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": ", key, " is ", json.contains(key) ? ShowJson(json[key]) : "missing",
                     "; ", allowed, "; `tuppence key add` writes such entries"));
  };
  ApiKey key;
  const std::string id = TextAt(json, "id");
  if (id.size() != kIdChars) return wrong("id", "8 characters are expected");
  const std::string hash = TextAt(json, "sha256");
  if (hash.size() != 2 * key.hash.size() ||
      hash.find_first_not_of("0123456789abcdef") != std::string::npos) {
    return wrong("sha256", "64 hexadecimal digits are expected");
  }
  const std::string bytes = absl::HexStringToBytes(hash);
  std::copy(bytes.begin(), bytes.end(), key.hash.begin());
  key.tenant = TextAt(json, "tenant");
  if (key.tenant.empty()) return wrong("tenant", "a name is expected");
  if (json.contains("expires")) {
    const std::optional<int64_t> expires = TimeOf(TextAt(json, "expires"));
    if (!expires.has_value()) return wrong("expires", "a date as 2027-06-30 is expected");
    key.expires_utc_ns = *expires;
  }
  return std::make_pair(id, key);
}

absl::StatusOr<absl::flat_hash_map<std::string, ApiKey>> ReadKeys(const Json& file) {
  absl::Status named = CheckKeys(file, "the file", {"keys", "note"});
  if (!named.ok()) return named;
  if (!file.contains("keys") || !file["keys"].is_array() || file["keys"].size() > kKeysMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("keys must be a list of at most ", kKeysMax, " entries"));
  }
  absl::flat_hash_map<std::string, ApiKey> keys;
  for (size_t i = 0; i < file["keys"].size(); ++i) {
    const std::string where = absl::StrCat("keys[", i, "]");
    auto key = ReadKey(file["keys"][i], where);
    if (!key.ok()) return key.status();
    if (!keys.insert(*std::move(key)).second) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": its id stands twice in the file"));
    }
  }
  return keys;
}

absl::StatusOr<Json> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return absl::NotFoundError(
        absl::StrCat("keys ", path, ": cannot be read; check the path and its permissions"));
  }
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  absl::StatusOr<Json> json = ParseStrictJson(text);
  absl::Status wrong = json.status();
  if (json.ok()) wrong = ReadKeys(*json).status();
  if (wrong.ok()) return json;
  return absl::InvalidArgumentError(absl::StrCat("keys ", path, ": ", wrong.message()));
}

// Whole or not at all, and for nobody else to read.
absl::Status WriteFile(const std::string& path, const Json& json) {
  const std::string text = json.dump(2) + "\n";
  const std::string made = path + ".new";
  const int fd = open(made.c_str(), O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0600);
  const bool written = fd >= 0 &&
                       write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
                       fsync(fd) == 0;
  const int error = errno;
  if (fd >= 0) close(fd);
  if (written && std::rename(made.c_str(), path.c_str()) == 0) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("keys ", path, ": cannot be written: ", std::strerror(written ? errno : error)));
}

// The id of what may be a key.
std::string IdOf(std::string_view key) {
  if (!key.starts_with(kPrefix)) return "";
  return std::string(key.substr(kPrefix.size(), kIdChars));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ApiKeys>> ApiKeys::Open(const std::string& path,
                                                       const Clock* clock) {
  std::unique_ptr<ApiKeys> keys(new ApiKeys(path, clock));
  if (absl::Status read = keys->Reload(); !read.ok()) return read;
  return keys;
}

absl::Status ApiKeys::Reload() {
  const absl::StatusOr<Json> file = ReadFile(path_);
  if (!file.ok()) return file.status();
  auto keys = ReadKeys(*file);
  absl::MutexLock lock(&mutex_);
  keys_ = *std::move(keys);
  return absl::OkStatus();
}

absl::StatusOr<std::string> ApiKeys::TenantOf(const MetadataValue& authorization) const {
  if (authorization.count != 1) {
    return RefusalStatus(
        absl::StatusCode::kUnauthenticated,
        absl::StrCat("authorization came ", authorization.count,
                     " times; send it once, as \"Bearer KEY\", with the key that the operator of "
                     "this service gave you"),
        Because(reason::kInvalidApiKey));
  }
  std::string_view key = authorization.value;
  const bool bearer =
      key.size() > kScheme.size() &&
      absl::EqualsIgnoreCase({key.data(), kScheme.size()}, {kScheme.data(), kScheme.size()});
  if (bearer) key.remove_prefix(kScheme.size());
  const KeyHash hash = HashOf(key);
  ApiKey known;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = keys_.find(IdOf(key));
    if (found != keys_.end()) known = found->second;
  }
  const bool same = CRYPTO_memcmp(hash.data(), known.hash.data(), hash.size()) == 0;
  const bool valid = known.expires_utc_ns == 0 || clock_->UtcNs() < known.expires_utc_ns;
  if (same && valid && bearer) return known.tenant;
  return RefusalStatus(absl::StatusCode::kUnauthenticated,
                       "authorization shows no key that is known here: it may be mistyped, "
                       "revoked or expired; send \"Bearer KEY\" with one that is valid",
                       Because(reason::kInvalidApiKey));
}

absl::StatusOr<std::string> MakeApiKey(const std::string& path, const std::string& tenant,
                                       const std::string& expires) {
  Json file = {{"keys", Json::array()}};
  if (access(path.c_str(), F_OK) == 0) {
    absl::StatusOr<Json> read = ReadFile(path);
    if (!read.ok()) return read.status();
    file = *std::move(read);
  }
  const std::string id = absl::BytesToHexString(RandomBytes(kIdChars / 2));
  const std::string key = absl::StrCat(std::string(kPrefix), id, "-",
                                       absl::WebSafeBase64Escape(RandomBytes(kSecretBytes)));
  const KeyHash hash = HashOf(key);
  Json entry = {
      {"id", id},
      {"sha256", absl::BytesToHexString({reinterpret_cast<const char*>(hash.data()), hash.size()})},
      {"tenant", tenant}};
  if (!expires.empty()) entry["expires"] = expires;
  if (auto checked = ReadKey(entry, "the new key"); !checked.ok()) return checked.status();
  file["keys"].push_back(std::move(entry));
  if (absl::Status written = WriteFile(path, file); !written.ok()) return written;
  return key;
}

absl::StatusOr<std::vector<ListedKey>> ListApiKeys(const std::string& path) {
  const absl::StatusOr<Json> file = ReadFile(path);
  if (!file.ok()) return file.status();
  std::vector<ListedKey> keys;
  for (const Json& entry : (*file)["keys"]) {
    keys.push_back({TextAt(entry, "id"), TextAt(entry, "tenant"), TextAt(entry, "expires")});
  }
  return keys;
}

absl::Status RemoveApiKey(const std::string& path, const std::string& id) {
  absl::StatusOr<Json> file = ReadFile(path);
  if (!file.ok()) return file.status();
  Json left = Json::array();
  for (const Json& entry : (*file)["keys"]) {
    if (entry["id"] != id) left.push_back(entry);
  }
  if (left.size() == (*file)["keys"].size()) {
    return absl::NotFoundError(absl::StrCat("keys ", path, ": there is no key ", id,
                                            "; `tuppence key list` shows those there are"));
  }
  (*file)["keys"] = std::move(left);
  return WriteFile(path, *file);
}

}  // namespace tuppence
