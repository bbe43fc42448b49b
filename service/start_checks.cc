#include "service/start_checks.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "service/listening.h"
#include "service/part_options.h"
#include "service/tls.h"
#include "service/usage_reader.h"

namespace tuppence {
namespace {

bool IsThere(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

absl::Status CheckCanBeMade(const char* flag, const std::string& path) {
  const std::filesystem::path folder = std::filesystem::absolute(path).parent_path();
  if (access(folder.c_str(), W_OK | X_OK) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(
      errno, absl::StrCat(flag, " ", path, " is not there and cannot be made in ", folder.string(),
                          "; make the folder or give another path"));
}

absl::Status TryFilesDir(const ServeOptions& options) {
  if (options.files_dir.empty()) return absl::OkStatus();
  if (options.http_port >= 0 && !IsThere(options.files_dir)) {
    return CheckCanBeMade("--files-dir", options.files_dir);
  }
  const absl::Status opened = OpenFiles(options).status();
  if (!absl::IsAlreadyExists(opened)) return opened;
  spdlog::warn("{}", std::string(opened.message()));
  return absl::OkStatus();
}

absl::Status TryUsageStore(const std::string& path) {
  if (path.empty()) return absl::OkStatus();
  if (IsThere(path)) return UsageReader::Open(path).status();
  return CheckCanBeMade("--usage-store", path);
}

absl::Status TryTrace(const std::string& path) {
  if (path.empty()) return absl::OkStatus();
  if (!IsThere(path)) return CheckCanBeMade("--write-trace", path);
  if (access(path.c_str(), W_OK) == 0 && !std::filesystem::is_directory(path)) {
    return absl::OkStatus();
  }
  return absl::PermissionDeniedError(absl::StrCat(
      "--write-trace ", path, " is there and cannot be written; give a file that can be"));
}

}  // namespace

absl::Status CheckTlsFiles(const ServeOptions& options) {
  if (options.tls_cert.empty() && options.tls_key.empty() && options.tls_client_ca.empty()) {
    return absl::OkStatus();
  }
  return ReadTls({options.tls_cert, options.tls_key, options.tls_client_ca}).status();
}

absl::Status TryDoors(const ServeOptions& options) {
  absl::Status http;
  if (options.http_port >= 0) http = TryListening(kHttpDoor, options.http_host, options.http_port);
  for (const absl::Status& door :
       {TryListening(kGrpcDoor, options.host, options.port), http,
        TryListening(kAdminDoor, options.admin_host, options.admin_port)}) {
    if (!door.ok() && !absl::IsAlreadyExists(door)) return door;
    if (!door.ok()) spdlog::warn("{}", std::string(door.message()));
  }
  return absl::OkStatus();
}

absl::Status TryStores(const ServeOptions& options) {
  if (absl::Status books = TryUsageStore(options.usage_store); !books.ok()) return books;
  if (absl::Status files = TryFilesDir(options); !files.ok()) return files;
  return TryTrace(options.write_trace);
}

}  // namespace tuppence
