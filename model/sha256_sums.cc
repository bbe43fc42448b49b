// See sha256_sums.h.
#include "model/sha256_sums.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "model/file.h"
#include "model/sha256.h"

namespace tuppence {
namespace {

constexpr char kSumsFile[] = "SHA256SUMS";
constexpr int64_t kSumsBytesMax = int64_t{1} << 20;
constexpr size_t kDigestHexChars = 64;

struct Sum {
  std::string digest;  // lower-case hex
  std::string name;
};

// "DIGEST  NAME", or "DIGEST *NAME" as sha256sum --binary writes it.
absl::StatusOr<Sum> ParseLine(absl::string_view line) {
  Sum sum;
  sum.digest = absl::AsciiStrToLower(line.substr(0, kDigestHexChars));
  const absl::string_view rest = line.substr(std::min(line.size(), kDigestHexChars));
  const bool is_hex = sum.digest.size() == kDigestHexChars &&
                      std::all_of(sum.digest.begin(), sum.digest.end(), absl::ascii_isxdigit);
  if (is_hex && rest.size() > 2 && rest[0] == ' ' && (rest[1] == ' ' || rest[1] == '*')) {
    sum.name = std::string(rest.substr(2));
  }
  if (IsPlainFileName(sum.name)) return sum;
  return absl::InvalidArgumentError(absl::StrCat(
      "is \"", absl::CHexEscape(line.substr(0, 100)),
      "\"; allowed are 64 hex digits, two blanks and the name of a file in this folder, "
      "as `sha256sum *` writes them"));
}

absl::StatusOr<std::string> Sha256Hex(const File& file) {
  Sha256 sha256;
  std::vector<char> chunk(size_t{1} << 20);
  for (int64_t at = 0; at < file.bytes();) {
    const int64_t bytes = std::min<int64_t>(static_cast<int64_t>(chunk.size()), file.bytes() - at);
    absl::Status read = file.ReadAt(at, bytes, chunk.data());
    if (!read.ok()) return read;
    sha256.Add({chunk.data(), static_cast<size_t>(bytes)});
    at += bytes;
  }
  return sha256.Finish();
}

absl::Status Compare(const std::string& folder, const Sum& sum) {
  const absl::StatusOr<File> file = File::Open(absl::StrCat(folder, "/", sum.name));
  if (!file.ok()) {
    return absl::Status(file.status().code(), absl::StrCat(std::string(file.status().message()),
                                                           "; ", kSumsFile, " lists it"));
  }
  const absl::StatusOr<std::string> digest = Sha256Hex(*file);
  if (!digest.ok()) return digest.status();
  if (*digest == sum.digest) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(file->path(), ": its SHA-256 is ", *digest, ", and ", kSumsFile, " says ",
                   sum.digest, "; the file was altered or damaged; download it again, or write ",
                   kSumsFile, " anew if the change is meant"));
}

}  // namespace

absl::StatusOr<int> CheckSha256Sums(const std::string& folder) {
  const std::string path = absl::StrCat(folder, "/", kSumsFile);
  const absl::StatusOr<std::string> text = ReadSmallFile(path, kSumsBytesMax);
  if (absl::IsNotFound(text.status())) return 0;
  if (!text.ok()) return text.status();
  int compared = 0;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(*text, '\n')) {
    ++number;
    line = absl::StripTrailingAsciiWhitespace(line);
    if (line.empty()) continue;
    const absl::StatusOr<Sum> sum = ParseLine(line);
    if (!sum.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": line ", number, " ", std::string(sum.status().message())));
    }
    if (sum->name == kSumsFile) continue;  // `sha256sum *` done again lists its own output
    absl::Status same = Compare(folder, *sum);
    if (!same.ok()) return same;
    ++compared;
  }
  return compared;
}

}  // namespace tuppence
